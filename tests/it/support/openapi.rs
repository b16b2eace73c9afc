//! Every answer that a test receives is checked against the description of the API.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use backroom::protocol::problem::Code;
use jsonschema::{Draft, Validator};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Panics where an answer is not what `backroom openapi` says.
#[track_caller]
pub fn check(method: &Method, path: &str, status: StatusCode, headers: &HeaderMap, body: &Value) {
    if let Err(reason) = judge(method, path, status, headers, body) {
        panic!("{method} {path} answers {status}, but the description of the API says: {reason}\n{body}");
    }
}

/// The description.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(backroom::http::openapi::DOCUMENT).unwrap());

/// One method of one path.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: Method,
    /// As the description writes it, `{id}` included.
    pub path: String,
    pub id: String,
    /// JSON pointer to it.
    pub pointer: String,
}

impl Operation {
    pub fn value(&self) -> &'static Value {
        DOCUMENT.pointer(&self.pointer).unwrap()
    }

    /// The documented statuses: `200`, `404`, `5XX`.
    pub fn statuses(&self) -> impl Iterator<Item = &'static String> {
        self.value()["responses"].as_object().unwrap().keys()
    }

    /// The documented key of a status.
    pub fn status(&self, status: u16) -> Option<&'static String> {
        let (exact, range) = (status.to_string(), format!("{}XX", status / 100));
        self.statuses().find(|key| **key == exact).or_else(|| self.statuses().find(|key| **key == range))
    }

    fn fits(&self, path: &str) -> bool {
        let (mut own, mut asked) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) => return true,
                (Some(own), Some(asked)) if own == asked || (own.starts_with('{') && !asked.is_empty()) => {}
                _ => return false,
            }
        }
    }
}

/// All operations. Paths without parameters come first, as they are more exact.
pub static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let Some(id) = operation["operationId"].as_str() else { continue };
            let pointer = format!("/paths/{}/{}", escape(path), method.as_str().to_lowercase());
            all.push(Operation { method, path: path.clone(), id: id.to_owned(), pointer });
        }
    }
    all.sort_by_key(|operation| operation.path.contains('{'));
    all
});

/// The operation that a request is.
pub fn operation(method: &Method, path: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.method == *method && operation.fits(path))
}

/// What is wrong with an answer.
pub fn judge(method: &Method, path: &str, status: StatusCode, headers: &HeaderMap, body: &Value) -> Result<(), String> {
    let Some(operation) = operation(method, path) else {
        // Outside of the API files are looked for, by GET alone.
        let method_matters = OPERATIONS.iter().any(|known| known.path != "/{file}" && known.fits(path));
        let other_method = method_matters || (!path.starts_with("/api/") && *method != Method::GET);
        let due = if other_method { Code::MethodNotAllowed } else { Code::NotFound };
        let due = if status == StatusCode::FORBIDDEN { Code::ForbiddenOrigin } else { due };
        if status != due.status() {
            return Err(format!("there is no such operation, so {} {} is due", due.status(), due.word()));
        }
        kind(headers, "application/problem+json")?;
        // An answer to HEAD has no body.
        if *method == Method::HEAD {
            return Ok(());
        }
        valid("/components/schemas/Problem", body)?;
        return if body["code"] == due.word() { Ok(()) } else { Err(format!("the code is {}", due.word())) };
    };
    if status == StatusCode::METHOD_NOT_ALLOWED {
        return Err("the method is listed".into());
    }
    let key = operation.status(status.as_u16()).ok_or_else(|| format!("{} has no such status", operation.id))?;
    let (pointer, response) = follow(format!("{}/responses/{key}", operation.pointer));
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let (at, header) = match header["$ref"].as_str() {
            Some(reference) => follow(reference.trim_start_matches('#').to_owned()),
            None => (format!("{pointer}/headers/{}", escape(name)), header),
        };
        match headers.get(name) {
            Some(value) => valid(&format!("{at}/schema"), &json!(value.to_str().unwrap())).map_err(|why| format!("{name}: {why}"))?,
            None if header["required"] == true => return Err(format!("the header {name} is required")),
            None => {}
        }
    }
    let Some(content) = response["content"].as_object() else {
        return if body.is_null() && !headers.contains_key(CONTENT_TYPE) { Ok(()) } else { Err("there is no body".into()) };
    };
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default();
    if !content.contains_key(given) {
        return Err(format!("the body is one of {:?}, not {given:?}", content.keys().collect::<Vec<_>>()));
    }
    if given.ends_with("json") { valid(&format!("{pointer}/content/{}/schema", escape(given)), body) } else { Ok(()) }
}

/// What is wrong with the body of a request that the server understood.
pub fn judge_request(operation: &Operation, body: &Value) -> Result<(), String> {
    match operation.value().get("requestBody") {
        Some(_) => valid(&format!("{}/requestBody/content/application~1json/schema", operation.pointer), body),
        None => Err(format!("{} has no request body", operation.id)),
    }
}

fn kind(headers: &HeaderMap, wanted: &str) -> Result<(), String> {
    let given = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap());
    if given == Some(wanted) { Ok(()) } else { Err(format!("the body is {wanted}, not {given:?}")) }
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The value at a pointer, or what it refers to.
fn follow(pointer: String) -> (String, &'static Value) {
    let value = DOCUMENT.pointer(&pointer).unwrap_or_else(|| panic!("the description has nothing at {pointer}"));
    match value["$ref"].as_str() {
        Some(reference) => follow(reference.trim_start_matches('#').to_owned()),
        None => (pointer, value),
    }
}

/// The validator of the schema at a pointer; compiled once.
fn validator(pointer: &str) -> Arc<Validator> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = compiled.get(pointer) {
        return known.clone();
    }
    // References in the schema are to the document's components, so they go with it.
    let mut schema = DOCUMENT.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_else(|| panic!("no schema at {pointer}"));
    schema.insert("components".into(), DOCUMENT["components"].clone());
    let built = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true).build(&Value::Object(schema));
    let built = Arc::new(built.unwrap_or_else(|error| panic!("{pointer}: {error}")));
    compiled.insert(pointer.to_owned(), built.clone());
    built
}

/// What is wrong with a value, by the schema at a pointer.
pub fn valid(pointer: &str, value: &Value) -> Result<(), String> {
    let validator = validator(pointer);
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{} at {:?}", error, error.instance_path().as_str())).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}
