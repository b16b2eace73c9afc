//! A change pushed over a live connection comes to the same as over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::{RULES, listening};
use crate::support::quick::at;
use crate::support::socket::{Socket, frame, ticket};
use crate::support::wire::Wire;
use crate::support::{Appliance, Device};

/// An answer without what differs in every run.
fn plain(answer: &Value, names: &[(&str, &str)]) -> Value {
    let mut text = answer.to_string();
    for (name, word) in names {
        text = text.replace(name, word);
    }
    let mut value: Value = serde_json::from_str(&text).unwrap();
    blot(&mut value);
    value
}

fn blot(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "cursor" | "request_id" | "conflict_id" | "updated_at" | "received_at" | "timestamp" | "server_time" | "op_id"
                    | "head" => *value = json!("·"),
                    _ => blot(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blot),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_the_answer_that_http_gives_for_the_same() {
    let office = Appliance::with(RULES).await;
    let (boss, ben, cleo) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let mut socket = Socket::open(&ben).await;
    let (old, mid, new) = (at(&office, -3600), at(&office, -60), at(&office, -30));
    // One record for each way, in the same state.
    for way in ["http", "live"] {
        for table in ["visits", "cases"] {
            let record = |version, n, time: &str| json!({ "id": format!("{way}-r"), "version": version, "n": n, "updated_at": time });
            cleo.push_one(table, record(0, 0, &old)).await;
            cleo.push_one(table, record(1, 1, &mid)).await;
        }
        boss.push_one("visits", json!({ "id": format!("{way}-b"), "store_id": "B" })).await;
    }
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let bodies = |way: &str| -> Vec<Value> {
        let id = |name: &str| format!("{way}-{name}");
        vec![
            json!({ "changes": { "visits": [{ "id": id("new"), "n": 1 }] } }),
            json!({ "changes": { "visits": [{ "id": id("new"), "n": 1, "version": 1 }] } }),
            json!({ "changes": { "cases": [{ "id": id("r"), "version": 1, "n": 2, "updated_at": new }] } }),
            json!({ "changes": { "visits": [{ "id": id("r"), "version": 1, "n": 2, "updated_at": new }] } }),
            json!({ "changes": { "nowhere": [{ "id": id("x") }], "feeds": [{ "id": id("x") }], "visits": [{ "id": "" }] } }),
            json!({ "changes": { "visits": [{ "id": id("b"), "version": 1, "n": 1 }] } }),
            json!({ "atomic": true, "changes": { "visits": [{ "id": id("a") }], "nowhere": [{ "id": id("x") }] } }),
            json!({ "atomic": true, "changes": { "visits": [{ "id": id("a") }, { "id": id("a2") }] } }),
            json!({ "dry_run": true, "changes": { "visits": [{ "id": id("dry") }] } }),
            json!({ "operations": [{ "op_id": id("op"), "table": "visits", "id": id("o"), "op": "create", "data": { "id": id("o") } }] }),
            json!({ "operations": [{ "op_id": id("op"), "table": "visits", "id": id("o"), "op": "create", "data": { "id": id("o") } }] }),
            json!({ "operations": [{ "op_id": id("op"), "table": "visits", "id": id("o2"), "op": "create", "data": { "id": id("o2") } }] }),
            json!({ "changes": { "visits": [{ "id": id("new"), "deleted": true, "version": 1 }] } }),
            json!({ "changes": { "visits": [{ "id": id("deep"), "a": deep }] } }),
            json!({ "cursor": "nonsense", "changes": {} }),
            json!({ "changes": [] }),
            json!({}),
        ]
    };
    let mut kinds = Vec::new();
    for (http, live) in bodies("http").into_iter().zip(bodies("live")) {
        let by_http = ben.try_push(http.clone()).await;
        let (kind, by_live) = socket.ask("push_change", live).await;
        assert_eq!(kind == "sync_complete", by_http.status.is_success(), "{http}: {}\n{by_live}", by_http.text);
        let names = [("http-", "·-"), ("live-", "·-")];
        assert_eq!(plain(&by_http.body, &names), plain(&by_live, &names), "{http}");
        kinds.push(kind);
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "error").count(), 3, "{kinds:?}");
    // Both ways left the same.
    let rows = "SELECT count(*) FROM heads";
    assert_eq!(office.ask::<i64>(rows).await % 2, 0);
    let list = boss.get("/api/v1/sync/conflicts?limit=100").await.ok();
    assert_eq!(list["conflicts"].as_array().unwrap().len() % 2, 0, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_a_push_over_http_refuses_it_here() {
    let office = Appliance::with(&format!("[limits]\nrequests_per_second = 1\nrequests_burst = 20\npush_changes = 3\n{RULES}")).await;
    let (ben, cleo) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let mut socket = Socket::open(&ben).await;
    let many: Vec<Value> = (0..4).map(|no| json!({ "id": format!("m{no}") })).collect();
    let body = json!({ "changes": { "visits": many } });
    let by_http = cleo.try_push(body.clone()).await;
    let (kind, by_live) = socket.ask("push_change", body).await;
    assert_eq!((kind.as_str(), &by_live["code"]), ("error", &by_http.body["code"]), "{by_live}");
    let mut codes = Vec::new();
    for no in 0..30 {
        let (kind, answer) = socket.ask("push_change", json!({ "changes": { "visits": [{ "id": format!("f{no}") }] } })).await;
        codes.push(if kind == "error" { answer["code"].as_str().unwrap().to_owned() } else { kind });
    }
    assert!(codes.contains(&"sync_complete".to_owned()) && codes.last().unwrap() == "rate_limited", "{codes:?}");
    assert_eq!(socket.ask("ping", json!({})).await.0, "pong", "the connection stays");

    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let mut socket = Socket::open(&ben).await;
    crate::support::process::run(&office.directory, &["pause"], "");
    let push = json!({ "changes": { "visits": [{ "id": "v" }] } });
    office.becomes(async || (ben.try_push(push.clone()).await.status == 503).then_some(())).await;
    let (kind, problem) = socket.ask("push_change", push).await;
    assert_eq!((kind.as_str(), &problem["code"], &problem["status"]), ("error", &json!("paused"), &json!(503)));
    // A browser reads and decides; it does not push.
    office.user("mia", backroom::domain::actor::Role::Manager, &[]).await;
    let cookie = office.sign_in("mia").await;
    let ticket = ticket(&Device::stranger(office.address), Some(&cookie)).await;
    let mut browser = Socket::by_ticket(office.address, &ticket).await;
    let (kind, problem) = browser.ask("push_change", json!({ "changes": {} })).await;
    assert_eq!((kind.as_str(), &problem["code"]), ("error", &json!("forbidden")));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_answered_one_after_the_other_with_their_ids() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let mut socket = Socket::open(&ben).await;
    for no in 0..300 {
        let message = match no % 3 {
            0 => {
                json!({ "type": "push_change", "id": no, "payload": { "changes": { "visits": [{ "id": "v", "version": no / 3, "n": no }] } } })
            }
            1 => json!({ "type": "ping", "id": no }),
            _ => json!({ "type": "subscribe", "id": no, "payload": {} }),
        };
        socket.send(message.to_string()).await;
    }
    for no in 0..300 {
        let answer = socket.answer().await;
        let kind = ["sync_complete", "pong", "subscribed"][no % 3];
        assert_eq!((&answer["id"], answer["type"].as_str()), (&json!(no), Some(kind)), "{answer}");
        if no % 3 == 0 {
            assert_eq!(answer["payload"]["applied"]["visits"][0]["version"], no / 3 + 1, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_answer_is_lost_counts_once() {
    let office = Appliance::with(&format!("{RULES}[tables.sums]\nrule = \"latest_wins\"\nmerge = {{ n = \"sum\" }}\n")).await;
    let ben = office.clerk("ben", "A").await;
    for turn in 0..40 {
        let op =
            json!({ "op_id": format!("op{turn}"), "table": "visits", "id": format!("v{turn}"), "op": "create", "data": { "n": turn } });
        let body = json!({ "operations": [op] });
        let mut wire = Wire::live(&ben).await;
        let text = json!({ "type": "push_change", "id": turn, "payload": body }).to_string();
        let bytes = frame(0x81, text.as_bytes());
        // Cut after all of it, or within.
        wire.send(&bytes[..if turn % 4 == 0 { bytes.len() / 2 } else { bytes.len() }]).await;
        if turn % 2 == 0 {
            wire.cut();
        } else {
            drop(wire);
        }
        let first = ben.push(body.clone()).await;
        let again = ben.push(body).await;
        for pushed in [&first, &again] {
            assert_eq!(pushed.applied("visits", &format!("v{turn}"))["version"], 1);
        }
    }
    listening(&office, 0).await;
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM changes").await, 40);
    let path = "/api/v1/records/visits/v1/history";
    assert_eq!(ben.call(Method::GET, path, None).await.ok()["history"].as_array().unwrap().len(), 1);
}
