//! A device by HTTP: short verbs, and answers that say what was expected.
//!
//! Every answer is checked against the OpenAPI description as it arrives (`openapi.rs` in this folder).

use std::net::SocketAddr;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::PASSWORD;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

impl Answer {
    /// The problem's code.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_else(|| panic!("no problem: {} {}", self.status, self.text))
    }

    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.body
    }

    /// Asserts status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
    }
}

/// A client of one appliance, with or without a token.
#[derive(Debug, Clone)]
pub struct Device {
    pub id: String,
    pub token: String,
    pub address: SocketAddr,
    pub client: Client,
    /// Cursor of the last pull, used by `sync`.
    pub cursor: Option<String>,
}

impl Device {
    /// Nobody: no token.
    pub fn stranger(address: SocketAddr) -> Device {
        Device { id: String::new(), token: String::new(), address, client: Client::new(), cursor: None }
    }

    /// Signs in with the tests' password.
    pub async fn login(address: SocketAddr, user: &str, id: &str) -> Device {
        let mut device = Device::stranger(address);
        let body =
            json!({ "username": user, "password": PASSWORD, "device": { "id": id, "name": id, "platform": "test", "app_version": "1.0" } });
        let answer = device.call(Method::POST, "/api/v1/auth/login", Some(body)).await.ok();
        (device.id, device.token) = (id.into(), answer["token"].as_str().unwrap().into());
        device
    }

    /// A request to a path, with the token if there is one.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.address));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    /// Sends a request and reads its answer.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        super::openapi::check(&method, &path, status, &headers, &body);
        Answer { status, headers, body, text }
    }

    /// A call with a JSON body.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path);
        self.send(match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A push, whatever comes of it.
    pub async fn try_push(&self, body: Value) -> Answer {
        self.post("/api/v1/sync/push", body).await
    }

    /// A push that is understood.
    pub async fn push(&self, body: Value) -> Pushed {
        Pushed(self.try_push(body).await.ok())
    }

    /// One whole record.
    pub async fn push_one(&self, table: &str, record: Value) -> Pushed {
        self.push(json!({ "changes": { table: [record] } })).await
    }

    /// One operation.
    pub async fn operate(&self, operation: Value) -> Pushed {
        self.push(json!({ "operations": [operation] })).await
    }

    /// A pull, whatever comes of it.
    pub async fn try_pull(&self, body: Value) -> Answer {
        self.post("/api/v1/sync/pull", body).await
    }

    /// A pull that is understood.
    pub async fn pull_with(&self, body: Value) -> Pulled {
        Pulled(self.try_pull(body).await.ok())
    }

    /// One page from zero.
    pub async fn pull(&self) -> Pulled {
        self.pull_with(json!({ "cursor": null })).await
    }

    /// From the last cursor, remembering the next.
    pub async fn sync(&mut self) -> Pulled {
        let pulled = self.pull_with(json!({ "cursor": self.cursor })).await;
        self.cursor = Some(pulled.cursor());
        pulled
    }

    /// A record by its address.
    pub async fn record(&self, table: &str, id: &str) -> Answer {
        self.get(&format!("/api/v1/records/{table}/{id}")).await
    }
}

/// The answer to a push.
#[derive(Debug, Clone)]
pub struct Pushed(pub Value);

impl Pushed {
    fn find<'a>(list: &'a Value, id: &str) -> Option<&'a Value> {
        list.as_array()?.iter().find(|entry| entry["id"] == id || entry["record_id"] == id)
    }

    /// The entry of an accepted change.
    #[track_caller]
    pub fn applied(&self, table: &str, id: &str) -> &Value {
        Self::find(&self.0["applied"][table], id).unwrap_or_else(|| panic!("{table}/{id} was not applied: {}", self.0))
    }

    /// The entry of a change that led to a conflict.
    #[track_caller]
    pub fn conflict(&self, id: &str) -> &Value {
        Self::find(&self.0["conflicts"], id).unwrap_or_else(|| panic!("{id} is no conflict: {}", self.0))
    }

    /// The code of a refused change.
    #[track_caller]
    pub fn rejected(&self, id: &str) -> &str {
        let found = Self::find(&self.0["rejected"], id).unwrap_or_else(|| panic!("{id} was not rejected: {}", self.0));
        found["code"].as_str().unwrap()
    }
}

/// The answer to a pull.
#[derive(Debug, Clone)]
pub struct Pulled(pub Value);

impl Pulled {
    pub fn cursor(&self) -> String {
        self.0["cursor"].as_str().unwrap().to_owned()
    }

    /// A table's records in this page.
    pub fn records(&self, table: &str) -> Vec<Value> {
        self.0["changes"][table].as_array().cloned().unwrap_or_default()
    }

    /// One record of this page.
    #[track_caller]
    pub fn record(&self, table: &str, id: &str) -> Value {
        let found = self.records(table).into_iter().find(|record| record["id"] == id);
        found.unwrap_or_else(|| panic!("{table}/{id} is not in this page: {}", self.0))
    }

    /// All ids of this page, as table/id.
    pub fn ids(&self) -> Vec<String> {
        let tables = self.0["changes"].as_object().cloned().unwrap_or_default();
        tables
            .iter()
            .flat_map(|(table, records)| {
                records.as_array().unwrap().iter().map(|record| format!("{table}/{}", record["id"].as_str().unwrap())).collect::<Vec<_>>()
            })
            .collect()
    }

    /// All evicted ids, as table/id.
    pub fn evicted(&self) -> Vec<String> {
        let tables = self.0["evicted"].as_object().cloned().unwrap_or_default();
        tables
            .iter()
            .flat_map(|(table, ids)| {
                ids.as_array().unwrap().iter().map(|id| format!("{table}/{}", id.as_str().unwrap())).collect::<Vec<_>>()
            })
            .collect()
    }
}
