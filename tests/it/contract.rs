//! The contract: the description of the API is exact and complete, every code and every documented status occurs, nobody
//! gets in where nobody should, and every answer carries what browsers and logs need.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;

use backroom::domain::actor::Role;
use backroom::domain::cursor::{Cursor, Epoch};
use backroom::protocol::problem::Code;
use backroom::server;
use backroom::sqlite::writer::Outcome;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use syn::visit::Visit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::openapi::{self, DOCUMENT, OPERATIONS, Operation};
use crate::support::process::{self, BINARY};
use crate::support::{Answer, Appliance, Device, LOOPBACK, PASSWORD};

/// Tables of every kind, and limits that a test can reach.
const RULES: &str = r#"
[limits]
body_bytes = 65536
push_changes = 5
record_bytes = 1024

[tables.forms]
rule = "manager_wins"
write = "manager"

[tables.submissions]
rule = "latest_wins"
scope = "store"

[tables.visits]
append_only = true

[tables.scores]
write = "service"

[tables.payroll]
read = "manager"

[tables.cases]
rule = "manual"
scope = "store"

[tables.badges]
unique = ["code"]
"#;

fn operation(id: &str) -> &'static Operation {
    OPERATIONS.iter().find(|operation| operation.id == id).unwrap_or_else(|| panic!("the description has no operation {id}"))
}

/// A path with its parameters filled in.
fn path(operation: &Operation, parameters: &[(&str, &str)]) -> String {
    let all = [("{table}", "forms"), ("{id}", "f1"), ("{file}", "style.css"), ("{version}", "1")];
    let given = parameters.iter().copied().chain(all);
    given.fold(operation.path.clone(), |path, (name, value)| path.replace(name, value))
}

fn takes_body(operation: &Operation) -> bool {
    operation.value().get("requestBody").is_some()
}

fn is_open(operation: &Operation) -> bool {
    operation.value()["security"] == json!([])
}

/// What occurred on a tour of the API.
#[derive(Default)]
struct Tour {
    statuses: Mutex<BTreeSet<(String, String)>>,
    codes: Mutex<BTreeSet<String>>,
}

impl Tour {
    fn note(&self, operation: Option<&Operation>, status: u16, body: &Value) {
        if let Some(operation) = operation {
            let key = operation.status(status).unwrap();
            self.statuses.lock().unwrap().insert((operation.id.clone(), key.clone()));
        }
        let rejected = body["rejected"].as_array().into_iter().flatten();
        let codes = rejected.chain([body]).filter_map(|problem| problem["code"].as_str());
        self.codes.lock().unwrap().extend(codes.map(str::to_owned));
    }

    /// A call. Where all of it is understood, its body must be one that the description allows.
    async fn call(&self, device: &Device, id: &str, path: &str, body: Option<Value>) -> Answer {
        let operation = operation(id);
        let answer = device.call(operation.method.clone(), path, body.clone()).await;
        if let Some(body) = body.filter(|_| answer.status.is_success() && !answer.text.contains("invalid_record")) {
            openapi::judge_request(operation, &body).unwrap_or_else(|why| panic!("{id} understood what it should not: {why}\n{body}"));
        }
        self.note(Some(operation), answer.status.as_u16(), &answer.body);
        answer
    }

    /// The same with a body and headers of any kind.
    async fn send(&self, device: &Device, id: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
        let operation = operation(id);
        let request = device.request(operation.method.clone(), &path(operation, &[])).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = device.send(request).await;
        self.note(Some(operation), answer.status.as_u16(), &answer.body);
        answer
    }

    async fn push(&self, device: &Device, body: Value) -> Answer {
        self.call(device, "push", "/api/v1/sync/push", Some(body)).await
    }

    async fn pull(&self, device: &Device, body: Value) -> Answer {
        self.call(device, "pull", "/api/v1/sync/pull", Some(body)).await
    }
}

/// Announces a body, sends none, and waits for the answer.
async fn a_body_that_never_comes(tour: &Tour, device: &Device, operation: &Operation) {
    let path = path(operation, &[]);
    let mut stream = TcpStream::connect(device.address).await.unwrap();
    let method = &operation.method;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nauthorization: Bearer {}\r\n\r\n", device.token);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HeaderMap = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
        .collect();
    let body: Value = serde_json::from_str(body).unwrap();
    openapi::check(method, &path, StatusCode::from_u16(status).unwrap(), &headers, &body);
    assert_eq!((status, &body["code"]), (408, &json!("request_timeout")), "{}", operation.id);
    tour.note(Some(operation), status, &body);
}

/// Runs SQL on the appliance's database from outside.
fn meddle(office: &Appliance, sql: &str) {
    rusqlite::Connection::open(office.directory.join(server::DATABASE)).unwrap().execute_batch(sql).unwrap();
}

async fn good_days(tour: &Tour, office: &Appliance, admin: &Device, till: &Device) {
    let manager = office.device("mia", "2").await;
    tour.push(&manager, json!({ "changes": { "forms": [{ "id": "f1", "title": "Opening" }] } })).await.ok();
    let push = json!({
        "device_id": till.id, "timestamp": "2025-12-18T11:00:00Z", "dry_run": false, "atomic": null,
        "changes": { "submissions": [{ "id": "s1", "version": 0, "updated_at": "2025-12-18T10:00:00+01:00", "deleted": false }] },
        "operations": [
            { "op_id": "o1", "table": "submissions", "id": "s2", "op": "create", "data": { "a": 1 }, "base": null },
            { "op_id": "o2", "table": "submissions", "id": "s2", "op": "update", "patch": { "a": 2 }, "base": { "version": 1 } },
            { "op_id": "o3", "table": "submissions", "id": "s2", "op": "delete", "base": { "version": 2 } },
        ],
        "report": { "name": "Till", "pending": 1, "failed": 0, "attempts": 3, "failures": 1, "oldest_pending_s": 1.5, "app_version": "1.2",
                    "platform": "ios", "os_version": "18", "network": "wifi" },
    });
    let pushed = tour.push(till, push.clone()).await.ok();
    assert_eq!(pushed["applied"]["submissions"].as_array().unwrap().len(), 4, "{pushed}");
    tour.push(till, push).await.ok();
    // Both sides of a conflict, won and lost, and one that only might be.
    tour.push(admin, json!({ "changes": { "submissions": [{ "id": "s1", "version": 1, "store_id": "A", "by": "admin" }] } })).await.ok();
    let edit =
        |id: &str, at: &str, by: &str| json!({ "changes": { "submissions": [{ "id": id, "version": 1, "updated_at": at, "by": by }] } });
    let mut dry = edit("s1", "2020-01-01T00:00:00Z", "till");
    dry["dry_run"] = json!(true);
    let predicted = tour.push(till, dry).await.ok();
    assert!(predicted["conflicts"][0]["conflict_id"].is_null() && predicted["dry_run"] == true, "{predicted}");
    let lost = tour.push(till, edit("s1", "2020-01-01T00:00:00Z", "till")).await.ok();
    assert_eq!(lost["conflicts"][0]["winner"], "server", "{lost}");

    let page = tour.pull(till, json!({ "device_id": till.id, "cursor": null, "limit": 1, "tables": ["submissions", "forms"] })).await.ok();
    assert_eq!((&page["reset"], &page["has_more"]), (&json!("first"), &json!(true)));
    let again =
        json!({ "cursor": page["cursor"], "tables": ["forms", "submissions"], "exclude_own": true, "timestamp": "2025-12-18T11:00:00Z" });
    let rest = tour.pull(till, again).await.ok();
    assert_eq!(rest["reset"], "more");
    tour.pull(till, json!({ "last_sync_timestamp": rest["timestamp"] })).await.ok();
    // The record goes to another store: it leaves the till's view.
    tour.push(admin, json!({ "changes": { "submissions": [{ "id": "s1", "version": 2, "store_id": "B" }] } })).await.ok();
    let left = tour.pull(till, json!({ "cursor": rest["cursor"], "tables": ["forms", "submissions"] })).await.ok();
    assert_eq!(left["evicted"]["submissions"], json!(["s1"]), "{left}");
    let waits = tour.push(till, edit("s1", "2020-01-02T00:00:00Z", "till again")).await.ok();
    assert_eq!((&waits["conflicts"][0]["reason"], &waits["conflicts"][0]["server_data"]), (&json!("left_view"), &Value::Null), "{waits}");

    let mine = json!({ "table": "submissions", "id": "s2", "version": 1, "fields": { "a": 3, "b": null } });
    assert_eq!(tour.call(till, "delta", "/api/v1/sync/delta", Some(mine)).await.ok()["deleted"], true);
    tour.call(till, "delta", "/api/v1/sync/delta", Some(json!({ "table": "forms", "id": "f1", "version": null, "fields": null })))
        .await
        .ok();
    let held = json!({ "count": 0, "hash": "0".repeat(32) });
    let verify = json!({ "device_id": till.id, "cursor": left["cursor"], "tables": { "submissions": held, "forms": null }, "buckets": ["forms"],
                         "records": { "forms": [0, 255] } });
    let verified = tour.call(till, "verify", "/api/v1/sync/verify", Some(verify)).await.ok();
    assert_eq!((&verified["current"], &verified["tables"]["submissions"]["matches"]), (&json!(true), &json!(true)), "{verified}");
    inbox(tour, admin, till, waits["conflicts"][0]["conflict_id"].as_str().unwrap(), lost["conflicts"][0]["conflict_id"].as_str().unwrap())
        .await;

    tour.call(till, "status", "/api/v1/sync/status", None).await.ok();
    tour.call(admin, "status", &format!("/api/v1/sync/status?device_id={}", till.id), None).await.ok();
    let first = tour.call(admin, "listDevices", "/api/v1/sync/devices?limit=1", None).await.ok();
    let next = first["next"].as_str().unwrap();
    tour.call(admin, "listDevices", &format!("/api/v1/sync/devices?after={next}"), None).await.ok();
    let own = format!("/api/v1/sync/devices/{}", till.id);
    tour.call(till, "readDevice", &own, None).await.ok();
    tour.call(till, "renameDevice", &own, Some(json!({ "name": "Front till" }))).await.ok();
    tour.push(till, json!({ "changes": { "forms": [{ "id": "f9" }], "submissions": [{ "no": "id" }] } })).await.ok();
    let refused = tour.call(till, "listRejected", &format!("{own}/rejected?limit=1"), None).await.ok();
    let more = format!("{own}/rejected?after={}", refused["next"].as_str().unwrap());
    assert!(tour.call(till, "listRejected", &more, None).await.ok()["next"].is_null());
    tour.call(till, "readRecord", "/api/v1/records/submissions/s2", None).await.ok();
    let versions = tour.call(till, "readHistory", "/api/v1/records/submissions/s2/history?limit=2", None).await.ok();
    assert_eq!(versions["next"], "2", "{versions}");
    tour.call(till, "readHistory", "/api/v1/records/submissions/s2/history?after=2", None).await.ok();
    tour.call(admin, "cleanup", "/api/v1/sync/cleanup", Some(json!({ "days_old": 30 }))).await.ok();

    let stranger = Device::stranger(office.address);
    let credentials = json!({ "username": "mia", "password": PASSWORD });
    tour.call(&stranger, "login", "/api/v1/auth/login", Some(credentials.clone())).await.ok();
    let mut with_device = credentials;
    with_device["device"] = json!({ "id": null, "name": "Laptop", "platform": null, "app_version": "1" });
    let enrolled = tour.call(&stranger, "login", "/api/v1/auth/login", Some(with_device)).await.ok();
    let doomed = format!("/api/v1/sync/devices/{}", enrolled["device_id"].as_str().unwrap());
    tour.call(&manager, "revokeDevice", &doomed, None).await.ok();
    let code = office.invite("tom").await;
    tour.call(&stranger, "enroll", "/api/v1/devices/enroll", Some(json!({ "code": code, "device_id": "till-9", "name": "Nine" })))
        .await
        .ok();
    tour.call(till, "logout", "/api/v1/auth/logout", None).await.ok();
    for (id, path) in [
        ("openapi", "/api/v1/openapi.json"),
        ("alive", "/healthz"),
        ("ready", "/readyz"),
        ("metrics", "/metrics"),
        ("home", "/"),
        ("setupPage", "/setup"),
        ("joinPage", "/join"),
        ("file", "/setup.js"),
    ] {
        tour.call(&stranger, id, path, None).await.ok();
    }
    listening(tour).await;
    tour.send(&stranger, "metrics", &[("x-forwarded-for", "192.0.2.1")], "").await.refused(401, "unauthorized");
    // The first admin is made on an appliance that has no user yet.
    let empty = Appliance::start().await;
    let code = server::setup_code(&empty.app).await.unwrap().unwrap();
    let body = json!({ "code": code, "username": "ada", "password": PASSWORD });
    tour.call(&Device::stranger(empty.address), "setup", "/api/v1/setup", Some(body)).await.ok();
}

/// A live connection by token and by ticket, and one more than a device may have.
async fn listening(tour: &Tour) {
    let office = Appliance::with("[live]\ndevice_sockets = 2\n").await;
    let manager = office.manager("mia").await;
    let ticket = tour.call(&manager, "ticket", "/api/v1/auth/ticket", None).await.ok()["ticket"].as_str().unwrap().to_owned();
    let path = "/api/v1/sync/ws";
    let mut open = Vec::new();
    let stranger = Device::stranger(office.address);
    for (device, path) in [(&manager, path.to_owned()), (&stranger, format!("{path}?ticket={ticket}"))] {
        let answer = handshake(device.request(Method::GET, &path)).send().await.unwrap();
        let status = answer.status();
        openapi::check(&Method::GET, path.split('?').next().unwrap(), status, answer.headers(), &Value::Null);
        tour.note(Some(operation("live")), status.as_u16(), &Value::Null);
        assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455, section 1.3.
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        open.push(answer.upgrade().await.unwrap());
    }
    let third = manager.send(handshake(manager.request(Method::GET, path))).await;
    third.refused(429, "too_many_sockets");
    tour.note(Some(operation("live")), 429, &third.body);
    let again = stranger.send(handshake(stranger.request(Method::GET, &format!("{path}?ticket={ticket}")))).await;
    again.refused(401, "unauthorized");
    let plain = tour.call(&manager, "live", path, None).await;
    plain.refused(426, "upgrade_required");
    assert_eq!(plain.headers["sec-websocket-version"], "13");
}

fn handshake(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    let fields = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    fields.into_iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// The inbox: an open conflict of a record that left the till's view, and one that a rule decided.
async fn inbox(tour: &Tour, admin: &Device, till: &Device, open: &str, lost: &str) {
    let list = tour.call(admin, "listConflicts", "/api/v1/sync/conflicts?limit=1", None).await.ok();
    let more = format!("/api/v1/sync/conflicts?after={}", list["next"].as_str().unwrap());
    assert!(tour.call(admin, "listConflicts", &more, None).await.ok()["next"].is_null());
    tour.call(till, "listConflicts", "/api/v1/sync/conflicts?status=open&table=submissions", None).await.ok();
    tour.call(till, "listConflicts", "/api/v1/sync/conflicts?status=lost", None).await.refused(400, "invalid_request");
    tour.call(till, "listConflicts", "/api/v1/sync/conflicts?table=nonsense", None).await.refused(422, "unknown_table");
    tour.call(till, "listConflicts", "/api/v1/sync/conflicts?table=payroll", None).await.refused(403, "forbidden");
    let path = |id: &str| format!("/api/v1/sync/conflicts/{id}");
    assert_eq!(tour.call(admin, "readConflict", &path(open), None).await.ok()["status"], "open");
    tour.call(till, "readConflict", &path(open), None).await.refused(404, "not_found");
    let resolve =
        async |device, id: &str, body: Value| tour.call(device, "resolveConflict", &format!("{}/resolve", path(id)), Some(body)).await;
    resolve(till, open, json!({ "resolution": "use_server" })).await.refused(404, "not_found");
    let unfit = json!({ "resolution": "use_merged", "merged_data": { "store_id": "?!" } });
    resolve(admin, open, unfit).await.refused(422, "invalid_record");
    let resolved =
        resolve(admin, open, json!({ "resolution": "use_client", "merged_data": null, "version": 3, "revert": false })).await.ok();
    assert_eq!((&resolved["version"], &resolved["conflict"]["resolved"]["by"]), (&json!(4), &json!("ada")), "{resolved}");
    resolve(admin, open, json!({ "resolution": "use_server" })).await.refused(409, "conflict_closed");
    let changed = resolve(admin, lost, json!({ "resolution": "use_client" })).await;
    changed.refused(409, "conflict_changed");
    assert_eq!(changed.body["version"], 4);

    // Restoring, and a key that another record took meanwhile.
    for badge in [json!({ "id": "b1", "code": 1 }), json!({ "id": "b1", "version": 1, "code": 2 }), json!({ "id": "b2", "code": 1 })] {
        tour.push(till, json!({ "changes": { "badges": [badge] } })).await.ok();
    }
    let restore = async |id: &str, version: &str, body: Value| {
        tour.call(till, "restoreVersion", &format!("/api/v1/records/{id}/history/{version}/restore"), Some(body)).await
    };
    restore("badges/b1", "1", json!({ "version": 1 })).await.refused(409, "conflict_changed");
    restore("badges/b1", "1", json!({})).await.refused(409, "unique_taken");
    tour.push(till, json!({ "changes": { "badges": [{ "id": "b2", "version": 1, "deleted": true }] } })).await.ok();
    assert_eq!(restore("badges/b1", "1", json!({ "version": 2 })).await.ok()["version"], 3);
    restore("badges/b2", "2", json!({})).await.refused(422, "invalid_record");
    restore("badges/b2", "7", json!({})).await.refused(404, "not_found");
    restore("nonsense/b2", "1", json!({})).await.refused(422, "unknown_table");
}

/// What every operation refuses in the same way.
async fn refusals_of_all(tour: &Tour, office: &Appliance, admin: &Device) {
    let stranger = Device::stranger(office.address);
    let revoked = office.device("mia", "gone").await;
    admin.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", revoked.id), None).await.ok();
    for operation in OPERATIONS.iter() {
        let id = operation.id.as_str();
        tour.send(admin, id, &[("host", "evil.example")], "").await.refused(403, "forbidden_origin");
        if !is_open(operation) {
            tour.send(&stranger, id, &[], "").await.refused(401, "unauthorized");
            tour.send(&revoked, id, &[], "").await.refused(401, "device_revoked");
            tour.send(admin, id, &[("x-device-id", "another")], "").await.refused(403, "device_mismatch");
        }
        if takes_body(operation) {
            tour.send(admin, id, &[], "no JSON").await.refused(400, "invalid_request");
            tour.send(admin, id, &[("content-encoding", "br")], "{}").await.refused(415, "unsupported_media_type");
            tour.send(admin, id, &[], vec![b' '; 65_537]).await.refused(413, "payload_too_large");
        }
    }
}

async fn refusals_of_some(tour: &Tour, office: &Appliance, admin: &Device, till: &Device) {
    let stranger = Device::stranger(office.address);
    // Whole requests.
    tour.push(till, json!({ "device_id": "another" })).await.refused(403, "device_mismatch");
    tour.pull(till, json!({ "cursor": "nonsense" })).await.refused(400, "invalid_cursor");
    tour.pull(till, json!({ "tables": ["nonsense"] })).await.refused(422, "unknown_table");
    tour.pull(till, json!({ "tables": ["payroll"] })).await.refused(403, "forbidden");
    let elsewhere = Cursor { epoch: Epoch(1), seq: 1, view: 1, tables: 0, start: None }.text();
    tour.push(till, json!({ "cursor": elsewhere })).await.refused(409, "epoch_changed");
    let batch = json!({ "atomic": true, "changes": { "submissions": [{ "id": "s7" }], "forms": [{ "id": "f7" }] } });
    let refused = tour.push(till, batch).await;
    refused.refused(409, "batch_refused");
    assert_eq!((&refused.body["applied"]["submissions"][0]["id"], &refused.body["rejected"][0]["record_id"]), (&json!("s7"), &json!("f7")));
    tour.call(till, "readRecord", "/api/v1/records/submissions/s7", None).await.refused(404, "not_found");
    tour.call(till, "readHistory", "/api/v1/records/submissions/s7/history", None).await.refused(404, "not_found");
    let delta = |table: &str, id: &str| Some(json!({ "table": table, "id": id, "version": 1, "fields": {} }));
    tour.call(till, "delta", "/api/v1/sync/delta", delta("submissions", "s7")).await.refused(404, "not_found");
    tour.call(till, "delta", "/api/v1/sync/delta", delta("nonsense", "s7")).await.refused(422, "unknown_table");
    tour.call(till, "delta", "/api/v1/sync/delta", delta("submissions", "é")).await.refused(422, "invalid_record");
    tour.call(till, "delta", "/api/v1/sync/delta", delta("payroll", "p1")).await.refused(403, "forbidden");
    for (body, status, code) in [
        (json!({ "tables": { "nonsense": null } }), 422, "unknown_table"),
        (json!({ "records": { "nonsense": [] } }), 422, "unknown_table"),
        (json!({ "buckets": ["payroll"] }), 403, "forbidden"),
        (json!({ "cursor": "nonsense" }), 400, "invalid_cursor"),
    ] {
        tour.call(till, "verify", "/api/v1/sync/verify", Some(body)).await.refused(status, code);
    }
    tour.call(till, "readRecord", "/api/v1/records/nonsense/s7", None).await.refused(422, "unknown_table");
    tour.call(till, "readHistory", "/api/v1/records/nonsense/s7/history", None).await.refused(422, "unknown_table");
    tour.call(till, "cleanup", "/api/v1/sync/cleanup", Some(json!({ "days_old": 1 }))).await.refused(403, "forbidden");
    tour.call(&stranger, "file", "/nothing.js", None).await.refused(404, "not_found");
    tour.call(admin, "status", "/api/v1/sync/status?device_id=nobody", None).await.refused(404, "not_found");
    for (id, body) in [("readDevice", None), ("renameDevice", Some(json!({ "name": "x" }))), ("revokeDevice", None)] {
        tour.call(till, id, "/api/v1/sync/devices/nobody", body).await.refused(404, "not_found");
    }
    tour.call(till, "listRejected", "/api/v1/sync/devices/nobody/rejected", None).await.refused(404, "not_found");
    let wrong = json!({ "username": "mia", "password": "wrong password" });
    tour.call(&stranger, "login", "/api/v1/auth/login", Some(wrong)).await.refused(401, "bad_credentials");
    tour.call(&stranger, "enroll", "/api/v1/devices/enroll", Some(json!({ "code": "0" }))).await.refused(403, "invalid_code");
    let setup = json!({ "code": "0", "username": "eve", "password": PASSWORD });
    tour.call(&stranger, "setup", "/api/v1/setup", Some(setup)).await.refused(403, "invalid_code");
    let other = till.call(Method::PUT, "/api/v1/sync/push", None).await;
    other.refused(405, "method_not_allowed");
    tour.note(None, 405, &other.body);

    // Single changes.
    let long = "x".repeat(2_000);
    let operations = json!([
        { "op_id": "used", "table": "submissions", "id": "s8", "op": "create", "data": { "a": 1 } },
        { "op_id": "used", "table": "submissions", "id": "s8", "op": "create", "data": { "a": 2 } },
        { "table": "submissions", "id": "s9", "op": "create", "data": { "a": long } },
        { "table": "submissions", "id": "never", "op": "update", "data": {}, "base": { "version": 3 } },
        { "table": "nonsense", "id": "s9", "op": "create", "data": {} },
    ]);
    let pushed = tour.push(till, json!({ "operations": operations })).await.ok();
    let codes: Vec<&str> = pushed["rejected"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["op_id_reused", "payload_too_large", "gone", "unknown_table"], "{pushed}");
    tour.push(till, json!({ "changes": { "visits": [{ "id": "v1", "a": 1 }] } })).await.ok();
    let changes = json!({ "visits": [{ "id": "v1", "version": 1, "a": 2 }], "forms": [{ "id": "f3" }], "submissions": [{ "id": "é" }] });
    let pushed = tour.push(till, json!({ "changes": changes })).await.ok();
    let codes: BTreeSet<&str> = pushed["rejected"].as_array().unwrap().iter().map(|one| one["code"].as_str().unwrap()).collect();
    assert_eq!(codes, BTreeSet::from(["immutable", "forbidden", "invalid_record"]), "{pushed}");
    let homeless = tour.push(admin, json!({ "changes": { "submissions": [{ "id": "s10" }] } })).await.ok();
    assert_eq!(homeless["rejected"][0]["code"], "store_required", "{homeless}");
    let many: Vec<Value> = (0..6).map(|n| json!({ "id": format!("m{n}") })).collect();
    tour.push(till, json!({ "changes": { "submissions": many } })).await.refused(413, "payload_too_large");
}

/// An office in which every second request is one too many.
async fn too_many_requests(tour: &Tour) {
    let office = Appliance::with("[limits]\nrequests_per_second = 1\nrequests_burst = 1\n").await;
    let manager = office.manager("mia").await;
    let stranger = Device::stranger(office.address);
    for operation in OPERATIONS.iter().filter(|operation| operation.status(429).is_some()) {
        let (mut tries, path) = (0, path(operation, &[]));
        loop {
            tries += 1;
            assert!(tries < 50, "{} never answers 429", operation.id);
            let caller = if is_open(operation) { &stranger } else { &manager };
            let body = takes_body(operation).then(|| match operation.id.as_str() {
                "setup" => json!({ "code": "0", "username": "eve", "password": PASSWORD }),
                "login" => json!({ "username": "nobody", "password": "nothing" }),
                "enroll" => json!({ "code": "0" }),
                _ => json!({}),
            });
            let answer = tour.call(caller, &operation.id, &path, body).await;
            if answer.status == 429 {
                answer.refused(429, "rate_limited");
                assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
                break;
            }
        }
    }
}

/// What goes wrong inside, and what an admin forbids.
async fn bad_days(tour: &Tour) {
    let mut office = Appliance::with(RULES).await;
    let manager = office.manager("mia").await;
    let form = |id: &str| json!({ "changes": { "forms": [{ "id": id, "title": "x".repeat(500) }] } });
    let cursor = manager.pull().await.cursor();
    tour.push(&manager, form("f0")).await.ok();

    // A purge that another process made, of which the serving one has not heard.
    meddle(&office, "INSERT INTO meta (key, value) VALUES ('floor', 1000000)");
    let passed_by = tour.pull(&manager, json!({ "cursor": cursor })).await;
    passed_by.refused(503, "unavailable");
    assert_eq!(passed_by.headers["retry-after"], "1");
    meddle(&office, "DELETE FROM meta WHERE key = 'floor'");

    assert!(process::run(&office.directory, &["pause"], "").status.success());
    let paused = office.becomes(async || Some(tour.push(&manager, form("f1")).await).filter(|answer| answer.status == 503)).await;
    paused.refused(503, "paused");
    assert_eq!(tour.call(&manager, "status", "/api/v1/sync/status", None).await.ok()["status"], "paused");
    assert!(process::run(&office.directory, &["resume"], "").status.success());
    office.becomes(async || Some(tour.push(&manager, form("f1")).await).filter(|answer| answer.status == 200)).await;

    // The file may not grow by a page: what SQLite says on a full disk.
    let pages = |most: &'static str| office.app.store.writer.run(move |db, _| Ok(Outcome::Keep(db.execute_batch(most)?)));
    pages("PRAGMA max_page_count = 1").await.unwrap();
    let mut n = 2;
    let full = loop {
        n += 1;
        let answer = tour.push(&manager, form(&format!("f{n}"))).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(n < 1_000, "the file is never full");
    };
    full.refused(507, "storage_full");
    pages("PRAGMA max_page_count = 1000000").await.unwrap();
    tour.push(&manager, form("after")).await.ok();

    // A database that is not what it should be.
    meddle(&office, "ALTER TABLE receipts RENAME TO mislaid");
    let failed = tour.push(&manager, json!({ "operations": [{ "op_id": "o", "table": "forms", "id": "x", "op": "delete" }] })).await;
    failed.refused(500, "internal");
    meddle(&office, "ALTER TABLE mislaid RENAME TO receipts");
    office = office.restart(RULES).await;
    office.device("mia", "1").await.push_one("forms", json!({ "id": "later" })).await.applied("forms", "later");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_every_operation_and_every_documented_status_occurs() {
    let _quiet = LOOPBACK.read().await;
    let tour = Tour::default();
    let office = Appliance::with(RULES).await;
    let admin = office.admin("ada").await;
    office.user("mia", Role::Manager, &[]).await;
    let till = office.till("tom", "A").await;
    good_days(&tour, &office, &admin, &till).await;
    let slow: Vec<&Operation> = OPERATIONS.iter().filter(|operation| takes_body(operation)).collect();
    let waiting = futures_util::future::join_all(slow.into_iter().map(|operation| a_body_that_never_comes(&tour, &admin, operation)));
    let others = async {
        refusals_of_all(&tour, &office, &admin).await;
        refusals_of_some(&tour, &office, &admin, &till).await;
        too_many_requests(&tour).await;
        bad_days(&tour).await;
    };
    tokio::join!(waiting, others);

    let codes = tour.codes.into_inner().unwrap();
    let missing: Vec<&str> = Code::ALL.iter().map(|code| code.word()).filter(|word| !codes.contains(*word)).collect();
    assert!(missing.is_empty(), "these codes never occurred: {missing:?}");
    let mut documented: BTreeSet<(String, String)> = BTreeSet::new();
    for operation in OPERATIONS.iter() {
        documented.extend(operation.statuses().map(|status| (operation.id.clone(), status.clone())));
    }
    let occurred = tour.statuses.into_inner().unwrap();
    // What fails inside fails alike everywhere; push, pull and their answers stand for all.
    let missing: Vec<_> = documented.difference(&occurred).filter(|(_, status)| status != "5XX").collect();
    assert!(missing.is_empty(), "these documented answers never occurred: {missing:?}");
}

/// Finds `path!(…)` and `warp::get()` in what a statement says.
#[derive(Default)]
struct Routes(BTreeSet<(String, String)>);

impl Visit<'_> for Routes {
    fn visit_local(&mut self, local: &syn::Local) {
        let (mut paths, mut methods) = (Paths::default(), Methods::default());
        paths.visit_local(local);
        methods.visit_local(local);
        for path in paths.0 {
            assert_eq!(methods.0.len(), 1, "{path}: a route names its method in the same statement");
            self.0.insert((methods.0[0].clone(), path));
        }
    }
}

#[derive(Default)]
struct Paths(Vec<String>);

impl Visit<'_> for Paths {
    fn visit_macro(&mut self, one: &syn::Macro) {
        if one.path.segments.last().is_some_and(|segment| segment.ident == "path") {
            let text = one.tokens.to_string();
            let parts = text.split('/').map(|part| part.trim().trim_matches('"'));
            let parts = parts.map(|part| if part.starts_with(char::is_uppercase) { "{}" } else { part });
            self.0.push(format!("/{}", parts.collect::<Vec<_>>().join("/")));
        }
    }
}

#[derive(Default)]
struct Methods(Vec<String>);

impl Visit<'_> for Methods {
    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let [warp, method] = names.as_slice()
            && warp == "warp"
            && ["get", "post", "put", "patch", "delete", "head", "options"].contains(&method.as_str())
        {
            self.0.push(method.to_uppercase());
        }
    }
}

#[test]
fn the_description_lists_the_routes_of_the_code_and_no_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let mut routes = Routes::default();
    for file in
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "rs"))
    {
        routes.visit_file(&syn::parse_file(&std::fs::read_to_string(file).unwrap()).unwrap());
    }
    let blank = |path: &str| path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/");
    let mut listed: BTreeSet<(String, String)> =
        OPERATIONS.iter().map(|operation| (operation.method.to_string(), blank(&operation.path))).collect();
    // The pages are files of one folder.
    for page in ["/", "/setup", "/join", "/{}"] {
        assert!(listed.remove(&("GET".to_owned(), page.to_owned())), "{page} is not listed");
    }
    assert!(routes.0.len() > 10, "the search finds routes: {:?}", routes.0);
    assert_eq!(routes.0, listed);
}

/// One row of the table of who may do what: the operation, its parameters and body, and the status for a store user of store A,
/// a service, a manager and an admin.
type Row = (&'static str, &'static [(&'static str, &'static str)], Option<Value>, [u16; 4]);

/// An open conflict over a record of store B.
const OF_B: &str = "00000000-0000-7000-8000-00000000000b";

fn rights() -> Vec<Row> {
    vec![
        ("push", &[], Some(json!({})), [200, 200, 200, 200]),
        ("pull", &[], Some(json!({})), [200, 200, 200, 200]),
        ("delta", &[], Some(json!({ "table": "forms", "id": "f1" })), [200, 200, 200, 200]),
        ("delta", &[], Some(json!({ "table": "submissions", "id": "of-b" })), [404, 200, 200, 200]),
        ("delta", &[], Some(json!({ "table": "payroll", "id": "p1" })), [403, 403, 200, 200]),
        ("verify", &[], Some(json!({})), [200, 200, 200, 200]),
        ("verify", &[], Some(json!({ "tables": { "payroll": null } })), [403, 403, 200, 200]),
        ("status", &[], None, [200, 200, 200, 200]),
        // Whoever is known is asked for a handshake.
        ("live", &[], None, [426, 426, 426, 426]),
        ("ticket", &[], None, [200, 200, 200, 200]),
        ("cleanup", &[], Some(json!({ "days_old": 3_650 })), [403, 403, 403, 200]),
        ("listDevices", &[], None, [200, 200, 200, 200]),
        // A device of a user of store B, one of a manager, one of an admin.
        ("readDevice", &[("{id}", "bob-1")], None, [404, 404, 200, 200]),
        ("readDevice", &[("{id}", "max-1")], None, [404, 404, 200, 200]),
        ("renameDevice", &[("{id}", "bob-1")], Some(json!({ "name": "Bob's" })), [404, 404, 200, 200]),
        ("renameDevice", &[("{id}", "max-1")], Some(json!({ "name": "Max's" })), [404, 404, 403, 200]),
        ("renameDevice", &[("{id}", "amy-1")], Some(json!({ "name": "Amy's" })), [404, 404, 403, 200]),
        ("listRejected", &[("{id}", "bob-1")], None, [404, 404, 200, 200]),
        ("revokeDevice", &[("{id}", "max-1")], None, [404, 404, 403, 200]),
        ("revokeDevice", &[("{id}", "bob-1")], None, [404, 404, 200, 200]),
        ("readRecord", &[], None, [200, 200, 200, 200]),
        ("readRecord", &[("{table}", "submissions"), ("{id}", "of-b")], None, [404, 200, 200, 200]),
        ("readRecord", &[("{table}", "payroll"), ("{id}", "p1")], None, [403, 403, 200, 200]),
        ("readHistory", &[], None, [200, 200, 200, 200]),
        ("readHistory", &[("{table}", "submissions"), ("{id}", "of-b")], None, [404, 200, 200, 200]),
        ("readHistory", &[("{table}", "payroll"), ("{id}", "p1")], None, [403, 403, 200, 200]),
        // What is shown of a conflict in store B, and what may be decided there: a version that it does not have is told to those
        // who may.
        ("listConflicts", &[], None, [200, 200, 200, 200]),
        ("readConflict", &[("{id}", OF_B)], None, [404, 200, 200, 200]),
        ("resolveConflict", &[("{id}", OF_B)], Some(json!({ "resolution": "use_client", "version": 9 })), [404, 403, 409, 409]),
        ("restoreVersion", &[("{table}", "submissions"), ("{id}", "of-b")], Some(json!({})), [404, 403, 200, 200]),
        ("restoreVersion", &[], Some(json!({})), [403, 403, 200, 200]),
        ("restoreVersion", &[("{table}", "payroll"), ("{id}", "p1")], Some(json!({})), [403, 403, 200, 200]),
        ("logout", &[], None, [204, 204, 204, 204]),
        // Open to all: what is asked here is refused for what it says, not for who asks.
        ("login", &[], Some(json!({})), [400, 400, 400, 400]),
        ("enroll", &[], Some(json!({})), [400, 400, 400, 400]),
        ("setup", &[], Some(json!({})), [400, 400, 400, 400]),
        ("openapi", &[], None, [200, 200, 200, 200]),
        ("alive", &[], None, [200, 200, 200, 200]),
        ("ready", &[], None, [200, 200, 200, 200]),
        // Open to programs of this machine alone, whoever's token they show.
        ("metrics", &[], None, [200, 200, 200, 200]),
        ("home", &[], None, [200, 200, 200, 200]),
        ("setupPage", &[], None, [200, 200, 200, 200]),
        ("joinPage", &[], None, [200, 200, 200, 200]),
        ("file", &[], None, [200, 200, 200, 200]),
    ]
}

/// What needs no signing in: deny by default is shown by the shortness of this list.
const OPEN: [&str; 11] = ["login", "enroll", "setup", "openapi", "alive", "ready", "metrics", "home", "setupPage", "joinPage", "file"];
/// What only a device may do: there is no cursor and no operation of a browser.
const DEVICES_ONLY: [&str; 4] = ["push", "pull", "verify", "live"];

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_closed_to_strangers_and_does_for_each_role_what_the_table_says() {
    let _quiet = LOOPBACK.read().await;
    let office = Appliance::with(RULES).await;
    office.user("ben", Role::Service, &[]).await;
    let callers = [office.till("tom", "A").await, office.device("ben", "1").await, office.manager("mia").await, office.admin("ada").await];
    for victim in [office.till("bob", "B").await, office.manager("max").await, office.admin("amy").await] {
        victim.push_one("submissions", json!({ "id": format!("of-{}", victim.id), "store_id": "B" })).await;
    }
    let admin = &callers[3];
    admin.push_one("forms", json!({ "id": "f1" })).await.applied("forms", "f1");
    admin.push_one("submissions", json!({ "id": "of-b", "store_id": "B" })).await.applied("submissions", "of-b");
    admin.push_one("payroll", json!({ "id": "p1" })).await.applied("payroll", "p1");

    // A conflict of a known name, in store B.
    admin.push_one("cases", json!({ "id": "of-b", "store_id": "B", "n": 1 })).await.applied("cases", "of-b");
    office.device("bob", "1").await.push_one("cases", json!({ "id": "of-b", "version": 0, "n": 2 })).await.conflict("of-b");
    meddle(&office, &format!("UPDATE conflicts SET id = '{OF_B}'"));

    let table = rights();
    let rows: BTreeSet<&str> = table.iter().map(|(id, ..)| *id).collect();
    let all: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.id.as_str()).collect();
    assert_eq!(rows, all, "each operation has its row in the table");
    let open: BTreeSet<&str> = OPERATIONS.iter().filter(|operation| is_open(operation)).map(|operation| operation.id.as_str()).collect();
    assert_eq!(open, BTreeSet::from(OPEN));

    let mut cookies = Vec::new();
    for user in ["tom", "ben", "mia", "ada"] {
        cookies.push(office.sign_in(user).await);
    }
    let stranger = Device::stranger(office.address);
    for (id, parameters, body, wanted) in table {
        let operation = operation(id);
        let path = path(operation, parameters);
        let call = async |device: &Device, cookie: Option<&String>| {
            let mut request = device.request(operation.method.clone(), &path);
            if let Some(cookie) = cookie {
                request = request.header("cookie", cookie);
            }
            if let Some(body) = &body {
                request = request.body(body.to_string());
            }
            device.send(request).await
        };
        if !OPEN.contains(&id) {
            call(&stranger, None).await.refused(401, "unauthorized");
            let forged = Device { token: "bkr_dev_nobody".into(), ..stranger.clone() };
            call(&forged, None).await.refused(401, "unauthorized");
            call(&stranger, Some(&"backroom_00000000=nobody".to_owned())).await.refused(401, "unauthorized");
        }
        for ((device, cookie), wanted) in callers.iter().zip(&cookies).zip(wanted) {
            let by_token = call(device, None).await;
            assert_eq!(by_token.status.as_u16(), wanted, "{} {path} as {}: {}", operation.method, device.id, by_token.text);
            if id == "logout" {
                continue;
            }
            let by_cookie = call(&stranger, Some(cookie)).await;
            let wanted = if DEVICES_ONLY.contains(&id) { 401 } else { wanted };
            assert_eq!(by_cookie.status.as_u16(), wanted, "{} {path} by the cookie of {}: {}", operation.method, device.id, by_cookie.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_writes_the_tables_that_are_its_own() {
    let office = Appliance::with(RULES).await;
    office.user("ben", Role::Service, &[]).await;
    let callers = [office.till("tom", "A").await, office.device("ben", "1").await, office.manager("mia").await, office.admin("ada").await];
    for (table, may) in [
        ("forms", [false, false, true, true]),
        ("submissions", [true, false, true, true]),
        ("visits", [true, false, true, true]),
        ("scores", [false, true, false, false]),
        ("payroll", [true, false, true, true]),
        ("cases", [true, false, true, true]),
    ] {
        for (device, may) in callers.iter().zip(may) {
            let id = format!("{table}-{}", device.id);
            let pushed = device.push_one(table, json!({ "id": id, "store_id": "A" })).await;
            match may {
                true => drop(pushed.applied(table, &id)),
                false => assert_eq!(pushed.rejected(&id), "forbidden", "{table} by {}", device.id),
            }
        }
    }
    // Who may write a table and not read it learns nothing from the answer.
    let own = callers[0].push_one("payroll", json!({ "id": "payroll-tom-1", "version": 1, "hours": 8 })).await;
    assert!(own.applied("payroll", "payroll-tom-1").get("data").is_none(), "{}", own.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_says_what_and_where_and_its_request_id_is_the_headers() {
    let office = Appliance::start().await;
    let till = office.till("tom", "A").await;
    let mut ids = BTreeSet::new();
    for (method, path, body) in [
        (Method::GET, "/api/v1/records/forms/none", None),
        (Method::GET, "/api/v1/nothing", None),
        (Method::PUT, "/api/v1/sync/push", None),
        (Method::POST, "/api/v1/sync/push", Some(json!([]))),
        (Method::POST, "/api/v1/sync/push", Some(json!({ "atomic": true, "changes": { "forms": [{ "id": "f" }] } }))),
        (Method::POST, "/api/v1/sync/pull", Some(json!({ "cursor": "?" }))),
        (Method::POST, "/api/v1/auth/login", Some(json!({ "username": "tom", "password": "no" }))),
    ] {
        let answer = till.call(method, path, body).await;
        let code = *Code::ALL.iter().find(|code| code.word() == answer.code()).unwrap();
        let problem = &answer.body;
        assert_eq!(problem["type"], format!("urn:backroom:problem:{}", code.word()));
        assert_eq!((&problem["title"], &problem["status"]), (&json!(code.title()), &json!(answer.status.as_u16())));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with('.')), "{problem}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(problem["request_id"], answer.headers["x-request-id"].to_str().unwrap());
        assert!(ids.insert(problem["request_id"].to_string()), "no two requests share an id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_inside_is_told_to_the_log_alone() {
    let office = Appliance::start().await;
    let manager = office.manager("mia").await;
    meddle(&office, "ALTER TABLE rejections RENAME TO mislaid");
    let mut problems = Vec::new();
    for path in ["/api/v1/sync/status", "/api/v1/sync/devices", "/api/v1/sync/devices/mia-1/rejected"] {
        let answer = manager.get(path).await;
        answer.refused(500, "internal");
        let mut problem = answer.body.clone();
        problem["request_id"].take();
        for word in ["rejections", "mislaid", "table", "SQL", "sqlite", "rusqlite", "src/", "panicked", "backroom.db"] {
            assert!(!problem.to_string().to_lowercase().contains(&word.to_lowercase()), "{word}: {problem}");
        }
        problems.push(problem);
    }
    assert!(problems.windows(2).all(|pair| pair[0] == pair[1]), "one failure looks like another: {problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_security_headers() {
    let office = Appliance::start().await;
    let manager = office.manager("mia").await;
    let stranger = Device::stranger(office.address);
    let cookie = office.sign_in("mia").await;
    let requests = [
        manager.request(Method::GET, "/api/v1/sync/status"),
        manager.request(Method::POST, "/api/v1/sync/push").body("{}"),
        stranger.request(Method::POST, "/api/v1/auth/logout").header("cookie", cookie),
        stranger.request(Method::GET, "/api/v1/sync/status"),
        stranger.request(Method::GET, "/api/v1/openapi.json"),
        stranger.request(Method::GET, "/api/v1/nothing"),
        stranger.request(Method::GET, "/api/v1/sync/status").header("host", "evil.example"),
        stranger.request(Method::DELETE, "/api/v1/sync/status"),
        stranger.request(Method::GET, "/healthz"),
        stranger.request(Method::GET, "/metrics"),
        stranger.request(Method::GET, "/"),
        stranger.request(Method::GET, "/setup"),
        stranger.request(Method::GET, "/join"),
        stranger.request(Method::GET, "/style.css"),
        stranger.request(Method::GET, "/nothing"),
    ];
    for request in requests {
        let path = request.try_clone().unwrap().build().unwrap().url().path().to_owned();
        let answer = stranger.send(request).await;
        let header = |name: &str| answer.headers.get(name).map_or("", |value| value.to_str().unwrap());
        let name = format!("{path}, {}: {:?}", answer.status, answer.headers);
        assert_eq!(header("x-content-type-options"), "nosniff", "{name}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{name}");
        let policy: Vec<&str> = header("content-security-policy").split("; ").collect();
        assert!(policy.contains(&"default-src 'none'") && policy.contains(&"frame-ancestors 'none'"), "{name}");
        assert!(!header("content-security-policy").contains("unsafe"), "{name}");
        assert!(!header("x-request-id").is_empty(), "{name}");
        if path.starts_with("/api/") || path == "/metrics" {
            assert_eq!(header("cache-control"), "no-store", "{name}");
        }
        assert!(header("access-control-allow-origin").is_empty() && header("server").is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_may_be_percent_encoded_in_a_path() {
    let office = Appliance::start().await;
    let manager = office.manager("mia@shop").await;
    manager.push_one("forms", json!({ "id": "a:b@c" })).await.applied("forms", "a:b@c");
    for id in ["a:b@c", "a%3Ab%40c", "a%3ab@c", "%61:b@c"] {
        assert_eq!(manager.record("forms", id).await.ok()["record"]["id"], "a:b@c", "{id}");
        assert_eq!(manager.get(&format!("/api/v1/records/forms/{id}/history")).await.ok()["history"][0]["version"], 1, "{id}");
    }
    assert_eq!(manager.get("/api/v1/sync/devices/mia%40shop-1").await.ok()["device_id"], "mia@shop-1");
    for id in ["a%253Ab%40c", "%FF", "a%2", "a+b", "%00"] {
        manager.record("forms", id).await.refused(404, "not_found");
    }
}

fn pack(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn unpack(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_compressed_both_ways() {
    let office = Appliance::start().await;
    let mut manager = office.manager("mia").await;
    // This client leaves compression to the test.
    manager.client = Client::builder().gzip(false).build().unwrap();
    let body = json!({ "changes": { "forms": [{ "id": "f1", "title": "x".repeat(5_000) }] } }).to_string();
    let request = manager.request(Method::POST, "/api/v1/sync/push").header("content-encoding", "gzip").body(pack(&body));
    let pushed = manager.send(request).await.ok();
    assert_eq!(pushed["applied"]["forms"][0]["status"], "applied");

    let fetch = async |accept: Option<&str>| {
        let request = manager.request(Method::GET, "/api/v1/records/forms/f1");
        let request = accept.iter().fold(request, |request, accept| request.header("accept-encoding", *accept));
        let response = manager.client.execute(request.build().unwrap()).await.unwrap();
        let (headers, bytes) = (response.headers().clone(), response.bytes().await.unwrap());
        (headers, bytes)
    };
    let (headers, plain) = fetch(None).await;
    assert!(!headers.contains_key("content-encoding") && plain.len() > 5_000);
    for accept in ["gzip", "br, gzip;q=0.5", "*", "GZIP"] {
        let (headers, packed) = fetch(Some(accept)).await;
        assert_eq!(
            (&headers["content-encoding"], &headers["vary"]),
            (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap()),
            "{accept}"
        );
        assert!(packed.len() < 500 && unpack(&packed).as_bytes() == plain, "{accept}");
    }
    for accept in ["identity", "br", "gzip;q=0", "gzip; q=0.0"] {
        let (headers, same) = fetch(Some(accept)).await;
        assert!(!headers.contains_key("content-encoding") && same == plain, "{accept}");
    }
    // Small answers go out as they are.
    let small = manager.request(Method::GET, "/healthz").header("accept-encoding", "gzip");
    assert!(!manager.send(small).await.headers.contains_key("content-encoding"));
    let broken = manager.request(Method::POST, "/api/v1/sync/push").header("content-encoding", "gzip").body("not gzip");
    manager.send(broken).await.refused(400, "invalid_request");
}

#[test]
fn the_description_is_sound() {
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    let words: Vec<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(DOCUMENT["components"]["schemas"]["Code"]["enum"], json!(words));
    let output = std::process::Command::new(BINARY).arg("openapi").output().unwrap();
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap() == *DOCUMENT, "the command prints the description");

    let ids: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.id.as_str()).collect();
    assert_eq!(ids.len(), OPERATIONS.len(), "operation ids are unique");
    let mut used = BTreeSet::new();
    references(&DOCUMENT, &mut used);
    for reference in &used {
        assert!(DOCUMENT.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    for (kind, parts) in DOCUMENT["components"].as_object().unwrap() {
        for (name, part) in parts.as_object().unwrap() {
            let place = format!("/components/{kind}/{name}");
            assert!(kind == "securitySchemes" || used.contains(&place), "{place} is not used");
            if kind == "schemas" {
                assert!(jsonschema::meta::is_valid(part), "{place} is no JSON Schema");
            }
            // A problem's code goes with its status.
            let constraint = &part["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"];
            let of = |name: &str| -> Vec<Value> {
                constraint[name]["enum"].as_array().cloned().unwrap_or_else(|| Vec::from_iter(constraint[name].get("const").cloned()))
            };
            let statuses: BTreeSet<u64> = of("status").iter().map(|status| status.as_u64().unwrap()).collect();
            let due =
                of("code").iter().map(|word| u64::from(Code::ALL.iter().find(|code| word == code.word()).unwrap().status())).collect();
            assert_eq!(statuses, due, "{place}");
        }
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(|text| text.trim_start_matches('#').to_owned()));
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_check_of_answers_refuses_what_the_description_does_not_say() {
    let headers = |kind: &'static str| {
        let pairs = [("x-request-id", "00000000-1"), ("content-type", kind)];
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect::<HeaderMap>()
    };
    let judge = |method: Method, path: &str, status: u16, kind: &'static str, body: Value| {
        openapi::judge(&method, path, StatusCode::from_u16(status).unwrap(), &headers(kind), &body)
    };
    let (plain, problem) = ("application/json", "application/problem+json");
    let not_found = json!({ "type": "urn:backroom:problem:not_found", "title": "Not found", "status": 404, "detail": "There.", "code": "not_found",
                            "request_id": "00000000-1" });
    let ok = json!({ "status": "ok" });
    assert_eq!(judge(Method::GET, "/healthz", 200, plain, ok.clone()), Ok(()));
    assert_eq!(judge(Method::GET, "/api/v1/unheard_of", 404, problem, not_found.clone()), Ok(()));
    assert_eq!(judge(Method::GET, "/api/v1/records/forms/f1", 404, problem, not_found.clone()), Ok(()));
    let with = |member: &str, value: Value| {
        let mut body = not_found.clone();
        body[member] = value;
        body
    };
    let wrong: BTreeMap<&str, Result<(), String>> = BTreeMap::from([
        ("an unlisted path", judge(Method::GET, "/api/v1/unheard_of", 200, plain, json!({}))),
        ("an unlisted method", judge(Method::PUT, "/api/v1/sync/push", 200, plain, json!({}))),
        ("an undocumented status", judge(Method::GET, "/healthz", 418, plain, ok.clone())),
        ("another type of body", judge(Method::GET, "/healthz", 200, "text/plain", ok.clone())),
        ("no body", judge(Method::GET, "/healthz", 200, plain, Value::Null)),
        ("one member more", judge(Method::GET, "/healthz", 200, plain, json!({ "status": "ok", "secret": 1 }))),
        ("one member less", judge(Method::GET, "/healthz", 200, plain, json!({}))),
        ("a problem with a member more", judge(Method::GET, "/api/v1/records/forms/f1", 404, problem, with("sql", json!("SELECT")))),
        ("a code of another status", judge(Method::GET, "/api/v1/records/forms/f1", 404, problem, with("code", json!("forbidden")))),
        ("an unheard-of code", judge(Method::GET, "/api/v1/records/forms/f1", 404, problem, with("code", json!("oops")))),
        ("a time without Z", openapi::valid("/components/schemas/Time", &json!("2025-12-18T11:00:00.000000+00:00"))),
        ("a day that is none", openapi::valid("/components/schemas/Time", &json!("2025-02-30T11:00:00.000000Z"))),
        (
            "a tombstone with data",
            openapi::valid(
                "/components/schemas/Record",
                &json!({ "id": "a", "version": 1, "updated_at": "2025-12-18T11:00:00.000000Z", "deleted": true, "title": "x" }),
            ),
        ),
    ]);
    for (what, verdict) in wrong {
        assert!(verdict.is_err(), "{what} passes");
    }
    let mut bare = headers(plain);
    bare.remove("x-request-id");
    assert!(openapi::judge(&Method::GET, "/healthz", StatusCode::OK, &bare, &ok).is_err(), "no request id");
    assert!(openapi::judge_request(operation("push"), &json!({ "changes": { "forms": [{ "title": "no id" }] } })).is_err());
}
