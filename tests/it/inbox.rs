//! The conflict inbox: who sees what of it, each resolution of each kind of conflict, taking decisions back, restoring old
//! versions, and that nobody decides blindly or twice.

use backroom::domain::actor::Role;
use backroom::domain::clock::DAY;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::quick::{at, without_request_id};
use crate::support::replica::Replica;
use crate::support::{Answer, Appliance, Device};

const RULES: &str = r#"
[limits]
record_bytes = 2048
[tables.cases]
rule = "manual"
scope = "store"
[tables.whole]
rule = "manual"
scope = "store"
granularity = "record"
[tables.notes]
rule = "latest_wins"
scope = "store"
[tables.prices]
rule = "server_wins"
scope = "store"
[tables.sums]
rule = "manual"
scope = "store"
merge = { n = "sum" }
[tables.people]
rule = "server_wins"
scope = "store"
unique = ["email"]
[tables.strict]
rule = "manual"
scope = "store"
required = ["title"]
[tables.board]
rule = "manual"
[tables.plans]
rule = "manual"
scope = "store"
write = "manager"
[tables.vault]
rule = "manual"
read = "manager"
[tables.feeds]
rule = "manual"
write = "service"
[tables.diaries]
rule = "manual"
scope = "user"
[tables.quizzes]
rule = "manual"
scope = "store"
merge = { passed = "derived" }
script = """
fn derive(record) {
  if record.bad == true { throw "a bad one"; }
  record.passed = record.score > 4;
  record
}
"""
[tables.quizzes.schema]
properties = { score = { maximum = 10 } }
[tables.offers]
rule = "script"
scope = "store"
script = "fn resolve(base, server, client, context) { throw \"ask a person\"; }"
"#;

/// An office with a manager, two tills of store A and one of store B.
struct Office {
    office: Appliance,
    boss: Device,
    one: Device,
    two: Device,
    south: Device,
}

async fn office() -> Office {
    let office = Appliance::with(RULES).await;
    let (boss, one, two) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let south = office.clerk("dora", "B").await;
    Office { office, boss, one, two, south }
}

#[track_caller]
fn id_of(conflict: &Value) -> String {
    conflict["conflict_id"].as_str().unwrap_or_else(|| panic!("no conflict: {conflict}")).to_owned()
}

async fn conflict(device: &Device, id: &str) -> Answer {
    device.get(&format!("/api/v1/sync/conflicts/{id}")).await
}

async fn resolve(device: &Device, id: &str, body: Value) -> Answer {
    device.post(&format!("/api/v1/sync/conflicts/{id}/resolve"), body).await
}

/// The ids of a list.
async fn ids(device: &Device, query: &str) -> Vec<String> {
    let list = device.get(&format!("/api/v1/sync/conflicts{query}")).await.ok();
    list["conflicts"].as_array().unwrap().iter().map(id_of).collect()
}

impl Office {
    /// A record at version 1 in store A, made long ago.
    async fn begin(&self, table: &str, fields: Value) {
        let mut record = fields;
        (record["id"], record["store_id"], record["updated_at"]) = (json!("r"), json!("A"), json!(at(&self.office, -3600)));
        self.boss.push_one(table, record).await.applied(table, "r");
    }

    /// An edit of version 1, so many seconds ago.
    async fn edit(&self, device: &Device, table: &str, seconds: i64, fields: Value) -> Value {
        let mut record = fields;
        (record["id"], record["version"], record["updated_at"]) = (json!("r"), json!(1), json!(at(&self.office, -seconds)));
        if record["deleted"] != true {
            record["store_id"] = json!("A");
        }
        let pushed = device.push_one(table, record).await.0;
        pushed["conflicts"].get(0).cloned().unwrap_or_else(|| pushed["applied"][table][0].clone())
    }

    /// Both tills edit version 1; the second one's conflict.
    async fn clash(&self, table: &str, first: Value, second: Value) -> String {
        self.begin(table, json!({ "a": 0, "b": 0, "title": "t" })).await;
        assert_eq!(self.edit(&self.one, table, 60, first).await["version"], 2);
        id_of(&self.edit(&self.two, table, 30, second).await)
    }

    async fn fields_clash(&self) -> String {
        self.clash("cases", json!({ "a": 1, "b": 0 }), json!({ "a": 2, "b": 0 })).await
    }

    async fn record(&self, table: &str) -> Value {
        let mut record = self.boss.record(table, "r").await.ok()["record"].clone();
        for name in ["id", "updated_at"] {
            record.as_object_mut().unwrap().remove(name);
        }
        record
    }

    async fn open(&self) -> i64 {
        self.boss.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"].as_i64().unwrap()
    }

    /// Somebody edits the record as it is.
    async fn meanwhile(&self, device: &Device, table: &str, fields: Value) {
        let mut record = self.boss.record(table, "r").await.ok()["record"].clone();
        for (name, value) in fields.as_object().unwrap() {
            record[name] = value.clone();
        }
        record.as_object_mut().unwrap().remove("updated_at");
        device.push_one(table, record).await.applied(table, "r");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_shows_both_sides_the_base_and_the_record_as_it_is() {
    let o = office().await;
    o.begin("cases", json!({ "a": 0, "b": 0, "big": 9_007_199_254_740_993i64, "o": { "x": 1, "y": 1 } })).await;
    let kept = 9_007_199_254_740_993i64;
    o.edit(&o.one, "cases", 60, json!({ "a": 1, "b": 0, "big": kept + 2, "o": { "x": 1, "y": 2 } })).await;
    let pushed = o.edit(&o.two, "cases", 30, json!({ "a": 2, "b": 5, "big": kept + 4, "o": { "x": 1, "y": 3 } })).await;
    let id = id_of(&pushed);
    let seen = conflict(&o.boss, &id).await;
    assert!(seen.text.contains("9007199254740997") && seen.text.contains("9007199254740995") && seen.text.contains("9007199254740993"));
    let seen = seen.ok();
    assert_eq!(seen["fields"], json!(["a", "big", "o.y"]));
    assert_eq!(seen["winners"], json!(["none", "none", "none"]));
    let (client, server) = (&seen["client"], &seen["server"]);
    assert_eq!((&client["user"], &client["role"], &client["device_id"]), (&json!("cleo"), &json!("store"), &json!("cleo-1")));
    assert_eq!((&server["user"], &server["device_id"], &server["version"]), (&json!("ben"), &json!("ben-1"), &json!(2)));
    assert_eq!((&client["data"]["a"], &server["data"]["a"], &seen["base"]["a"]), (&json!(2), &json!(1), &json!(0)));
    // What was not in conflict came in at once: the record is further than the server's side.
    assert_eq!((&seen["version"], &seen["current"]["version"], &seen["current"]["data"]["b"]), (&json!(3), &json!(3), &json!(5)));
    let differences: Vec<String> = seen["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {} {} {} {}", one["field"], one["base"], one["client"], one["server"], one["changed_by"], one["winner"]))
        .collect();
    assert_eq!(
        differences,
        [
            r#""a" 0 2 1 "both" "none""#,
            &format!(r#""big" {kept} {} {} "both" "none""#, kept + 4, kept + 2),
            r#""o.y" 1 3 2 "both" "none""#,
            r#""b" 0 5 0 "client" null"#,
        ]
    );
    assert_eq!((&seen["status"], &seen["resolved"], &seen["suggested_because"]), (&json!("open"), &Value::Null, &json!("time")));
    // In lists it stands without contents.
    let list = o.boss.get("/api/v1/sync/conflicts").await.ok();
    let entry = &list["conflicts"][0];
    assert_eq!((&entry["conflict_id"], entry.get("base"), entry["client"].get("data")), (&json!(id), None, None));
    // The people and devices may go; the conflict stays readable.
    o.boss.call(Method::DELETE, "/api/v1/sync/devices/cleo-1", None).await.ok();
    assert_eq!(conflict(&o.boss, &id).await.ok()["client"]["device_id"], "cleo-1");
    conflict(&o.boss, "nonsense").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_is_decided_each_way() {
    for (body, record, version) in [
        (json!({ "resolution": "use_server" }), json!({ "version": 2, "store_id": "A", "a": 1, "b": 0 }), 2),
        (json!({ "resolution": "use_client" }), json!({ "version": 3, "store_id": "A", "a": 2, "b": 0 }), 3),
        (
            json!({ "resolution": "use_merged", "merged_data": { "id": "r", "version": 77, "updated_at": "x", "a": 12, "c": 1 } }),
            json!({ "version": 3, "store_id": "A", "a": 12, "c": 1 }),
            3,
        ),
    ] {
        let o = office().await;
        let id = o.fields_clash().await;
        let mut replica = Replica::new(o.one.clone());
        replica.pull().await;
        assert_eq!(o.open().await, 1);
        let answer = resolve(&o.boss, &id, body.clone()).await.ok();
        assert_eq!((&answer["version"], &answer["conflict"]["status"]), (&json!(version), &json!("resolved")), "{answer}");
        let resolved = &answer["conflict"]["resolved"];
        assert_eq!(
            (&resolved["resolution"], &resolved["by"], &resolved["version"], &resolved["reverted"]),
            (&body["resolution"], &json!("anna"), &json!(version), &json!(false))
        );
        assert_eq!(answer["conflict"], conflict(&o.boss, &id).await.ok());
        assert_eq!(o.record("cases").await, record);
        assert_eq!(o.open().await, 0);
        assert_eq!(o.boss.get("/api/v1/sync/devices/cleo-1").await.ok()["open_conflicts"], 0);
        let history = o.boss.get("/api/v1/records/cases/r/history").await.ok()["history"].clone();
        if version == 3 {
            let newest = &history[0];
            assert_eq!((&newest["rule"], &newest["user"], &newest["role"]), (&json!("resolve"), &json!("anna"), &json!("manager")));
            assert_eq!((&newest["device_id"], &newest["conflict_id"]), (&Value::Null, &json!(id)));
        } else {
            assert_eq!((&history[0]["version"], &history[0]["conflict_id"]), (&json!(2), &Value::Null));
        }
        // It comes to every device, also to the one whose conflict it was.
        replica.pull().await;
        assert_eq!(replica.holds(), replica.truth().await);
        let audit: String =
            o.office.ask("SELECT actor || ' ' || action || ' ' || subject || ' ' || detail FROM audit WHERE action = 'resolve'").await;
        let word = body["resolution"].as_str().unwrap();
        assert_eq!(audit, format!(r#"anna resolve {id} {{"record":"r","resolution":"{word}","table":"cases","version":{version}}}"#));
        // Once is enough.
        for again in [json!({ "resolution": "use_client" }), json!({ "resolution": "use_server", "version": version }), body] {
            resolve(&o.boss, &id, again).await.refused(409, "conflict_closed");
        }
        assert_eq!(o.record("cases").await, record);
        assert_eq!(o.office.ask::<i64>("SELECT count(*) FROM audit WHERE action IN ('resolve', 'revert')").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_records_are_decided_each_way() {
    let keep = json!({ "store_id": "A", "b": 0 });
    // (the first change, the second, the table) and what comes of use_server and of use_client.
    let (edit, other, delete) = (json!({ "a": 1, "b": 0 }), json!({ "a": 2, "b": 7 }), json!({ "deleted": true }));
    for (table, first, second, server, client) in [
        // A delete against an edit.
        ("cases", &edit, &delete, json!({ "a": 1 }), json!({ "deleted": true })),
        // An edit against a delete: laid over the last live content.
        ("cases", &delete, &other, json!({ "deleted": true }), json!({ "a": 2, "b": 7 })),
        // At record granularity.
        ("whole", &edit, &other, json!({ "a": 1 }), json!({ "a": 2, "b": 7 })),
    ] {
        for (resolution, due) in [("use_server", &server), ("use_client", &client)] {
            let o = office().await;
            let id = o.clash(table, first.clone(), second.clone()).await;
            let answer = resolve(&o.boss, &id, json!({ "resolution": resolution, "version": 2 })).await.ok();
            let written = resolution == "use_client";
            let mut wanted = if due["deleted"] == true { json!({}) } else { keep.clone() };
            wanted.as_object_mut().unwrap().extend(due.as_object().unwrap().clone());
            wanted["version"] = json!(if written { 3 } else { 2 });
            assert_eq!(o.record(table).await, wanted, "{table} {first} {second} {resolution}");
            assert_eq!(answer["conflict"]["current"]["deleted"], due["deleted"] == true);
            assert_eq!(o.open().await, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_measured_or_left_the_view_is_laid_over_the_record() {
    // A base that nobody knows: the client's whole record, in the store where it is.
    let o = office().await;
    o.begin("sums", json!({ "n": 1, "a": 0, "b": 0 })).await;
    o.edit(&o.one, "sums", 60, json!({ "n": 5, "a": 0, "b": 4 })).await;
    let unknown = "00000000000000000000000000000000";
    let operation =
        json!({ "op_id": "g", "table": "sums", "id": "r", "op": "update", "base": { "hash": unknown }, "data": { "n": 3, "a": 2 } });
    let gap = o.two.operate(operation).await.conflict("r").clone();
    assert_eq!((&gap["reason"], &gap["fields"]), (&json!("gap"), &json!(["*"])));
    resolve(&o.boss, &id_of(&gap), json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("sums").await, json!({ "version": 3, "store_id": "A", "n": 3, "a": 2 }));

    // A record that left the view stays where it is; its own store's fields stay too.
    let o = office().await;
    o.begin("notes", json!({ "a": 0, "b": 0 })).await;
    o.boss.push_one("notes", json!({ "id": "r", "version": 1, "store_id": "B", "a": 0, "b": 9 })).await.applied("notes", "r");
    let left = o.edit(&o.one, "notes", 30, json!({ "a": 2, "b": 0 })).await;
    assert_eq!(left["reason"], "left_view");
    let id = id_of(&left);
    for store in [&o.one, &o.south] {
        conflict(store, &id).await.refused(404, "not_found");
        resolve(store, &id, json!({ "resolution": "use_client" })).await.refused(404, "not_found");
        assert_eq!(ids(store, "").await, Vec::<String>::new());
        assert_eq!(store.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 0);
    }
    assert_eq!(conflict(&o.boss, &id).await.ok()["server"]["data"]["b"], 9);
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("notes").await, json!({ "version": 3, "store_id": "B", "a": 2, "b": 9 }));
    // Also once the record is back: what it was meanwhile was not theirs.
    o.boss.push_one("notes", json!({ "id": "r", "version": 3, "store_id": "B", "a": 3 })).await.applied("notes", "r");
    let again = o.edit(&o.one, "notes", 20, json!({ "a": 4, "b": 0 })).await;
    o.boss.push_one("notes", json!({ "id": "r", "version": 4, "store_id": "A", "a": 3 })).await.applied("notes", "r");
    conflict(&o.one, &id_of(&again)).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clash_of_keys_is_decided_once_the_key_is_free() {
    let o = office().await;
    o.one.push_one("people", json!({ "id": "p1", "email": "eva@shop" })).await.applied("people", "p1");
    let clash = id_of(o.two.push_one("people", json!({ "id": "p2", "email": "eva@shop", "name": "Ewa" })).await.conflict("p2"));
    let seen = conflict(&o.boss, &clash).await.ok();
    assert_eq!((&seen["server"]["record_id"], &seen["current"], &seen["version"]), (&json!("p1"), &Value::Null, &Value::Null));
    resolve(&o.boss, &clash, json!({ "resolution": "use_server" })).await.refused(409, "conflict_closed");
    resolve(&o.boss, &clash, json!({ "resolution": "use_client" })).await.refused(409, "unique_taken");
    o.boss.record("people", "p2").await.refused(404, "not_found");
    assert_eq!(conflict(&o.boss, &clash).await.ok()["resolved"], Value::Null, "nothing was decided");
    // With another key it is made.
    let merged =
        json!({ "resolution": "use_merged", "version": 0, "merged_data": { "store_id": "A", "email": "ewa@shop", "name": "Ewa" } });
    let made = resolve(&o.boss, &clash, merged).await.ok();
    assert_eq!((&made["version"], &made["conflict"]["resolved"]["reverted"]), (&json!(1), &json!(true)));
    assert_eq!(o.two.record("people", "p2").await.ok()["record"]["email"], "ewa@shop");
    // The way back: there was no such record.
    resolve(&o.boss, &clash, json!({ "resolution": "use_server", "revert": true })).await.ok();
    assert_eq!(o.boss.record("people", "p2").await.ok()["record"]["deleted"], true);
    // Once the other one is gone the key is free, and is taken.
    o.one.push_one("people", json!({ "id": "p1", "version": 1, "deleted": true })).await.applied("people", "p1");
    resolve(&o.boss, &clash, json!({ "resolution": "use_client", "revert": true })).await.ok();
    assert_eq!(o.boss.record("people", "p2").await.ok()["record"]["email"], "eva@shop");
    let taken = o.one.push_one("people", json!({ "id": "p3", "email": "eva@shop" })).await;
    assert_eq!(taken.conflict("p3")["reason"], "unique");

    // An update onto another's key, taken back and again.
    o.two.push_one("people", json!({ "id": "p4", "email": "ida@shop", "n": 1 })).await.applied("people", "p4");
    let onto = id_of(o.two.push_one("people", json!({ "id": "p4", "version": 1, "email": "eva@shop", "n": 2 })).await.conflict("p4"));
    resolve(&o.boss, &onto, json!({ "resolution": "use_client" })).await.refused(409, "unique_taken");
    o.boss.push_one("people", json!({ "id": "p2", "version": 3, "deleted": true })).await.applied("people", "p2");
    resolve(&o.boss, &onto, json!({ "resolution": "use_client" })).await.ok();
    resolve(&o.boss, &onto, json!({ "resolution": "use_server", "revert": true })).await.ok();
    let back = o.boss.record("people", "p4").await.ok()["record"].clone();
    assert_eq!((&back["email"], &back["n"], &back["version"]), (&json!("ida@shop"), &json!(1), &json!(3)));
    o.one.push_one("people", json!({ "id": "p5", "email": "eva@shop" })).await.applied("people", "p5");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_decides_over_what_they_did_not_see() {
    // Another field moved on: it is kept.
    let o = office().await;
    let id = o.fields_clash().await;
    o.meanwhile(&o.one, "cases", json!({ "b": 8 })).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "version": 2 })).await.refused(409, "conflict_changed");
    // A whole record would be written over it.
    let whole = json!({ "resolution": "use_merged", "merged_data": { "a": 3 } });
    let refused = resolve(&o.boss, &id, whole).await;
    refused.refused(409, "conflict_changed");
    assert_eq!(refused.body["version"], 3);
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("cases").await, json!({ "version": 4, "store_id": "A", "a": 2, "b": 8 }));

    // The same field moved on: only by who says that they saw it.
    for body in [json!({ "resolution": "use_client" }), json!({ "resolution": "use_merged", "merged_data": { "a": 2 } })] {
        let o = office().await;
        let id = o.fields_clash().await;
        o.meanwhile(&o.one, "cases", json!({ "a": 5 })).await;
        for stale in [None, Some(2), Some(9)] {
            let mut body = body.clone();
            body["version"] = json!(stale);
            let refused = resolve(&o.boss, &id, body).await;
            refused.refused(409, "conflict_changed");
            assert_eq!(refused.body["version"], 3);
        }
        resolve(&o.boss, &id, json!({ "resolution": "use_server", "version": 2 })).await.refused(409, "conflict_changed");
        assert_eq!((o.open().await, &o.record("cases").await["a"]), (1, &json!(5)));
        let mut seen = body;
        seen["version"] = json!(3);
        resolve(&o.boss, &id, seen).await.ok();
        assert_eq!((o.open().await, &o.record("cases").await["a"]), (0, &json!(2)));
    }
    // Keeping the record as it is overwrites nothing.
    let o = office().await;
    let id = o.fields_clash().await;
    o.meanwhile(&o.one, "cases", json!({ "a": 5 })).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.ok();
    assert_eq!(o.record("cases").await["a"], 5);
    // A whole record moved on in any field.
    let o = office().await;
    let id = o.clash("cases", json!({ "a": 1, "b": 0 }), json!({ "deleted": true })).await;
    o.meanwhile(&o.one, "cases", json!({ "b": 8 })).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.refused(409, "conflict_changed");
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "version": 3 })).await.ok();
    assert_eq!(o.record("cases").await["deleted"], true);
    // Deleted since: seen, it lives again with the client's value.
    let o = office().await;
    let id = o.fields_clash().await;
    o.one.push_one("cases", json!({ "id": "r", "version": 2, "deleted": true })).await.applied("cases", "r");
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.refused(409, "conflict_changed");
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "version": 3 })).await.ok();
    assert_eq!(o.record("cases").await, json!({ "version": 4, "store_id": "A", "a": 2, "b": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_managers_one_decides() {
    for _ in 0..8 {
        let o = office().await;
        let id = o.fields_clash().await;
        let other = o.office.boss("max").await;
        let decide = |device: Device, body: Value| {
            let id = id.clone();
            tokio::spawn(async move { resolve(&device, &id, body).await })
        };
        let merged = json!({ "resolution": "use_merged", "merged_data": { "a": 3 }, "version": 2 });
        let tasks = [decide(o.boss.clone(), json!({ "resolution": "use_client", "version": 2 })), decide(other, merged)];
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        let won = answers.iter().position(|answer| answer.status == 200).unwrap();
        answers[1 - won].refused(409, "conflict_closed");
        assert_eq!(o.record("cases").await["a"], if won == 0 { 2 } else { 3 });
        assert_eq!(o.record("cases").await["version"], 3);
        assert_eq!(o.office.ask::<i64>("SELECT count(*) FROM audit WHERE action = 'resolve'").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_decides_what_is_its_own_and_takes_nothing_back() {
    let o = office().await;
    let id = o.fields_clash().await;
    // Another store's, by any way.
    let hidden = conflict(&o.south, &id).await;
    hidden.refused(404, "not_found");
    let absent = conflict(&o.south, "00000000-0000-7000-8000-000000000000").await;
    assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
    let hidden = resolve(&o.south, &id, json!({ "resolution": "use_client" })).await;
    let absent = resolve(&o.south, "00000000-0000-7000-8000-000000000000", json!({ "resolution": "use_client" })).await;
    assert_eq!((hidden.status, without_request_id(&hidden.text)), (absent.status, without_request_id(&absent.text)));
    assert_eq!(ids(&o.south, "?table=cases&record=r").await, Vec::<String>::new());
    // One's own, whoever of the store made it.
    assert_eq!(ids(&o.one, "").await, std::slice::from_ref(&id));
    assert_eq!(o.one.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 1);
    assert_eq!(conflict(&o.one, &id).await.ok()["client"]["data"]["a"], 2);
    let away = json!({ "resolution": "use_merged", "merged_data": { "store_id": "B", "a": 1 } });
    resolve(&o.one, &id, away).await.refused(403, "forbidden");
    let answer = resolve(&o.one, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(answer["conflict"]["resolved"]["by"], "ben");
    // Closed: it is a manager's to take back.
    for body in [json!({ "resolution": "use_server" }), json!({ "resolution": "use_server", "revert": true })] {
        resolve(&o.one, &id, body).await.refused(409, "conflict_closed");
    }
    conflict(&o.one, &id).await.refused(404, "not_found");
    assert_eq!(ids(&o.one, "?status=resolved").await, Vec::<String>::new());
    assert_eq!(o.one.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 0);
    let ruled = o.clash("prices", json!({ "a": 1 }), json!({ "a": 2 })).await;
    resolve(&o.two, &ruled, json!({ "resolution": "use_client" })).await.refused(409, "conflict_closed");

    // A record that moved on to another store takes its conflicts out of both stores' sight.
    let moved = o.clash("whole", json!({ "a": 1 }), json!({ "a": 2 })).await;
    o.meanwhile(&o.boss, "whole", json!({ "store_id": "B" })).await;
    for store in [&o.one, &o.south] {
        conflict(store, &moved).await.refused(404, "not_found");
        assert_eq!(ids(store, "").await, Vec::<String>::new());
    }
    assert_eq!(conflict(&o.boss, &moved).await.ok()["current"]["version"], 3);

    // Office tables: one's own change; what one may not read or write: not at all.
    o.boss.push_one("board", json!({ "id": "n", "a": 1 })).await.applied("board", "n");
    let board = id_of(o.one.push_one("board", json!({ "id": "n", "version": 0, "a": 2 })).await.conflict("n"));
    conflict(&o.two, &board).await.refused(404, "not_found");
    assert_eq!((ids(&o.one, "").await, ids(&o.two, "").await), (vec![board.clone()], vec![]));
    o.boss.push_one("vault", json!({ "id": "n", "a": 1 })).await.applied("vault", "n");
    let vault = id_of(o.one.push_one("vault", json!({ "id": "n", "version": 0, "a": 2 })).await.conflict("n"));
    conflict(&o.one, &vault).await.refused(404, "not_found");
    resolve(&o.one, &vault, json!({ "resolution": "use_client" })).await.refused(404, "not_found");
    let admin = o.office.chief("root").await;
    o.boss.push_one("plans", json!({ "id": "r", "store_id": "A", "a": 1 })).await.applied("plans", "r");
    let plans = id_of(admin.push_one("plans", json!({ "id": "r", "version": 0, "store_id": "A", "a": 2 })).await.conflict("r"));
    assert_eq!(conflict(&o.one, &plans).await.ok()["client"]["user"], "root");
    resolve(&o.one, &plans, json!({ "resolution": "use_server" })).await.refused(403, "forbidden");
    o.one.push_one("diaries", json!({ "id": "d", "a": 1 })).await.applied("diaries", "d");
    let diary = id_of(o.boss.push_one("diaries", json!({ "id": "d", "version": 0, "user_id": "ben", "a": 2 })).await.conflict("d"));
    conflict(&o.two, &diary).await.refused(404, "not_found");
    resolve(&o.one, &diary, json!({ "resolution": "use_client" })).await.ok();

    // A service reads all, and decides where it may write.
    let service = o.office.someone("bot", Role::Service, &[]).await;
    assert_eq!(conflict(&service, &board).await.ok()["conflict_id"], board);
    resolve(&service, &board, json!({ "resolution": "use_server" })).await.refused(403, "forbidden");
    service.push_one("feeds", json!({ "id": "f", "a": 1 })).await.applied("feeds", "f");
    let other = o.office.enrolled("bot", "2").await;
    let feeds = id_of(other.push_one("feeds", json!({ "id": "f", "version": 0, "a": 2 })).await.conflict("f"));
    resolve(&o.boss, &feeds, json!({ "resolution": "use_client" })).await.refused(403, "forbidden");
    resolve(&service, &feeds, json!({ "resolution": "use_client" })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_shows_a_store_nothing_of_the_time_with_another_one() {
    let o = office().await;
    let both = o.office.someone("eli", Role::Store, &["A", "B"]).await;
    o.begin("cases", json!({ "a": "sesame" })).await;
    o.boss.push_one("cases", json!({ "id": "r", "version": 1, "store_id": "B", "a": 1 })).await.applied("cases", "r");
    let change = |store: &str, a: i64| json!({ "id": "r", "version": 1, "updated_at": at(&o.office, a), "store_id": store, "a": a });
    let id = id_of(both.push_one("cases", change("B", -30)).await.conflict("r"));
    let seen = conflict(&o.south, &id).await;
    assert!(!seen.text.contains("sesame"), "{}", seen.text);
    let seen = seen.ok();
    assert_eq!((&seen["base"], &seen["client"]["data"]["a"], &seen["server"]["data"]["a"]), (&Value::Null, &json!(-30), &json!(1)));
    assert_eq!(seen["differences"], json!([{ "field": "a", "client": -30, "server": 1, "changed_by": "both", "winner": "none" }]));
    assert_eq!(conflict(&o.boss, &id).await.ok()["base"]["a"], "sesame");
    // The change now asks for it in the other store: it is not this one's to read.
    assert_eq!(id_of(both.push_one("cases", change("A", -20)).await.conflict("r")), id);
    conflict(&o.south, &id).await.refused(404, "not_found");
    assert_eq!(ids(&o.south, "").await, Vec::<String>::new());
    assert_eq!(ids(&both, "").await, [id]);
    // A delete from where the record was names no store, and is not this one's to read either.
    o.meanwhile(&o.boss, "cases", json!({ "store_id": "B" })).await;
    assert_eq!(o.edit(&o.one, "cases", 10, json!({ "deleted": true })).await["reason"], "left_view");
    assert_eq!(ids(&o.south, "").await, Vec::<String>::new());

    // What was everybody's before the table had stores goes to none of them.
    let office = Appliance::with("[tables.cases]\nrule = \"manual\"\n").await;
    let (boss, south) = (office.boss("anna").await, office.clerk("dora", "B").await);
    boss.push_one("cases", json!({ "id": "r", "a": 1 })).await.applied("cases", "r");
    let id = id_of(office.boss("max").await.push_one("cases", json!({ "id": "r", "version": 0, "a": 2 })).await.conflict("r"));
    office.reload("[tables.cases]\nrule = \"manual\"\nscope = \"store\"\n").await;
    boss.push_one("cases", json!({ "id": "r", "version": 1, "store_id": "B", "a": 1 })).await.applied("cases", "r");
    south.record("cases", "r").await.ok();
    conflict(&south, &id).await.refused(404, "not_found");
    conflict(&boss, &id).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_decides_as_its_user_does() {
    let o = office().await;
    let id = o.fields_clash().await;
    o.office.user("max", Role::Manager, &[]).await;
    let cookie = o.office.sign_in("max").await;
    let stranger = Device::stranger(o.office.address);
    let path = format!("/api/v1/sync/conflicts/{id}/resolve");
    let request = stranger.request(Method::POST, &path).header("cookie", cookie).body(json!({ "resolution": "use_client" }).to_string());
    assert_eq!(stranger.send(request).await.ok()["conflict"]["resolved"]["by"], "max");
    assert_eq!(o.boss.get("/api/v1/records/cases/r/history").await.ok()["history"][0]["device_id"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_decided_is_taken_back_and_other_fields_stay() {
    let o = office().await;
    let id = o.clash("prices", json!({ "a": 1, "b": 0 }), json!({ "a": 2, "b": 0 })).await;
    let mut replica = Replica::new(o.one.clone());
    replica.pull().await;
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.refused(409, "conflict_closed");
    o.meanwhile(&o.one, "prices", json!({ "b": 8, "c": 1 })).await;
    let answer = resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!((&answer["conflict"]["resolved"]["reverted"], &answer["conflict"]["winner"]), (&json!(true), &json!("server")));
    assert_eq!(o.record("prices").await, json!({ "version": 4, "store_id": "A", "a": 2, "b": 8, "c": 1 }));
    let newest = o.boss.get("/api/v1/records/prices/r/history").await.ok()["history"][0].clone();
    assert_eq!((&newest["rule"], &newest["changed"], &newest["conflict_id"]), (&json!("revert"), &json!(["a"]), &json!(id)));
    // The loser's value reaches the other device.
    replica.pull().await;
    assert_eq!(replica.mirror[&("prices".to_owned(), "r".to_owned())]["a"], 2);
    // A person has decided now: only on purpose, and not the same again.
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.refused(409, "conflict_closed");
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "revert": true })).await.refused(409, "conflict_closed");
    // Somebody changed the field since: only by who saw that.
    o.meanwhile(&o.two, "prices", json!({ "a": 6 })).await;
    let refused = resolve(&o.boss, &id, json!({ "resolution": "use_server", "revert": true })).await;
    refused.refused(409, "conflict_changed");
    assert_eq!(refused.body["version"], 5);
    resolve(&o.boss, &id, json!({ "resolution": "use_server", "revert": true, "version": 5 })).await.ok();
    assert_eq!(o.record("prices").await, json!({ "version": 6, "store_id": "A", "a": 1, "b": 8, "c": 1 }));
    let audit: String = o.office.ask("SELECT group_concat(action || ' ' || subject, ', ') FROM audit WHERE action = 'revert'").await;
    assert_eq!(audit, format!("revert {id}, revert {id}"));

    // What the change won goes back to the server's side.
    let o = office().await;
    let id = o.clash("notes", json!({ "a": 1, "b": 0 }), json!({ "a": 2, "b": 0 })).await;
    assert_eq!(o.record("notes").await["a"], 2);
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.refused(409, "conflict_closed");
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.ok();
    assert_eq!(o.record("notes").await, json!({ "version": 4, "store_id": "A", "a": 1, "b": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_or_death_is_taken_back() {
    let (edit, delete) = (json!({ "a": 1, "b": 0 }), json!({ "deleted": true }));
    // The later one won: a delete over an edit, an edit over a delete.
    let o = office().await;
    let id = o.clash("notes", edit.clone(), delete.clone()).await;
    assert_eq!(o.record("notes").await["deleted"], true);
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.ok();
    assert_eq!(o.record("notes").await, json!({ "version": 4, "store_id": "A", "a": 1, "b": 0 }));
    // And back again, although somebody wrote meanwhile, by who saw that.
    o.meanwhile(&o.one, "notes", json!({ "b": 3 })).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "revert": true })).await.refused(409, "conflict_changed");
    resolve(&o.boss, &id, json!({ "resolution": "use_client", "revert": true, "version": 5 })).await.ok();
    assert_eq!(o.record("notes").await, json!({ "version": 6, "deleted": true }));
    let history = o.boss.get("/api/v1/records/notes/r/history").await.ok()["history"].clone();
    let line = |place: usize| (history[place]["operation"].clone(), history[place]["changed"].clone());
    assert_eq!(line(0), (json!("delete"), json!([])));
    assert_eq!(line(2), (json!("update"), json!([])), "it lives again as it was");

    let o = office().await;
    let id = o.clash("notes", delete.clone(), edit.clone()).await;
    assert_eq!(o.record("notes").await["a"], 1);
    resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.ok();
    assert_eq!(o.record("notes").await["deleted"], true);

    // The server's side stood; the losing content comes back to life.
    let o = office().await;
    let id = o.clash("prices", delete, edit).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("prices").await, json!({ "version": 3, "store_id": "A", "a": 1, "b": 0 }));

    // A person laid a whole record over another; taken back, what others wrote since into other fields stays.
    let o = office().await;
    o.begin("sums", json!({ "n": 1, "a": 0, "b": 0 })).await;
    o.edit(&o.one, "sums", 60, json!({ "n": 5, "a": 0, "b": 4 })).await;
    let unknown = "00000000000000000000000000000000";
    let operation =
        json!({ "op_id": "g", "table": "sums", "id": "r", "op": "update", "base": { "hash": unknown }, "data": { "n": 3, "a": 2 } });
    let id = id_of(o.two.operate(operation).await.conflict("r"));
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    o.meanwhile(&o.one, "sums", json!({ "c": 1 })).await;
    resolve(&o.boss, &id, json!({ "resolution": "use_server", "revert": true, "version": 4 })).await.ok();
    assert_eq!(o.record("sums").await, json!({ "version": 5, "store_id": "A", "n": 5, "a": 0, "b": 4, "c": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_record_passes_the_checks_of_a_push() {
    let o = office().await;
    let id = o.clash("strict", json!({ "title": "one" }), json!({ "title": "two" })).await;
    let long = "x".repeat(3_000);
    for (merged, status, code) in [
        (json!({ "a": 1 }), 422, "invalid_record"),
        (json!({ "title": null }), 422, "invalid_record"),
        (json!({ "title": "t", "id": "other" }), 422, "invalid_record"),
        (json!({ "title": "t", "id": 7 }), 422, "invalid_record"),
        (json!({ "title": "t", "store_id": "?!" }), 422, "invalid_record"),
        (json!({ "title": long }), 413, "payload_too_large"),
        (json!([1]), 422, "invalid_record"),
        (json!("t"), 422, "invalid_record"),
        (Value::Null, 400, "invalid_request"),
    ] {
        let answer = resolve(&o.boss, &id, json!({ "resolution": "use_merged", "merged_data": merged })).await;
        answer.refused(status, code);
    }
    let twice = o.boss.request(Method::POST, &format!("/api/v1/sync/conflicts/{id}/resolve"));
    let twice = twice.body(r#"{"resolution":"use_merged","merged_data":{"title":"t","a":1,"a":2}}"#);
    o.boss.send(twice).await.refused(422, "invalid_record");
    for body in [json!({}), json!({ "resolution": "use_both" }), json!({ "resolution": "use_client", "merged_data": {} }), json!([])] {
        resolve(&o.boss, &id, body).await.refused(400, "invalid_request");
    }
    assert_eq!((o.open().await, &o.record("strict").await["title"]), (1, &json!("one")));
    assert_eq!(o.office.ask::<i64>("SELECT count(*) FROM audit WHERE action = 'resolve'").await, 0);
    // Exactly as it was sent, in canonical form; a manager may also hand the record on.
    let merged = r#"{"resolution":"use_merged","merged_data":{"title":"t","n":9007199254740993,"f":1.0,"store_id":"B"}}"#;
    let request = o.boss.request(Method::POST, &format!("/api/v1/sync/conflicts/{id}/resolve")).body(merged);
    assert!(o.boss.send(request).await.text.contains(r#"{"f":1,"n":9007199254740993,"store_id":"B","title":"t"}"#));
    assert_eq!(o.south.record("strict", "r").await.ok()["record"]["title"], "t");
    o.one.record("strict", "r").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_schemas_are_asked_of_what_a_person_decides() {
    let o = office().await;
    o.begin("quizzes", json!({ "score": 1 })).await;
    o.edit(&o.one, "quizzes", 60, json!({ "score": 2 })).await;
    let id = id_of(&o.edit(&o.two, "quizzes", 30, json!({ "score": 7 })).await);
    let merged = |score: i64| json!({ "resolution": "use_merged", "merged_data": { "score": score, "passed": "forged" } });
    resolve(&o.boss, &id, merged(11)).await.refused(422, "invalid_record");
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("quizzes").await, json!({ "version": 3, "store_id": "A", "score": 7, "passed": true }));
    let mut revert = merged(3);
    revert["revert"] = json!(true);
    resolve(&o.boss, &id, revert).await.ok();
    assert_eq!(o.record("quizzes").await, json!({ "version": 4, "store_id": "A", "score": 3, "passed": false }));
    assert_eq!(restore(&o.one, "quizzes/r", "3", json!({})).await.ok()["record"]["passed"], true);

    // A create that the script did not take: there is no record yet, and only its author and the managers know of it.
    let bad = o.two.push_one("quizzes", json!({ "id": "q", "score": 5, "bad": true })).await.conflict("q").clone();
    let id = id_of(&bad);
    assert_eq!((&bad["reason"], &bad["detail"].as_str().unwrap().contains("a bad one")), (&json!("script_failed"), &true));
    conflict(&o.one, &id).await.refused(404, "not_found");
    assert_eq!((ids(&o.two, "").await, ids(&o.one, "").await), (vec![id.clone()], vec![]));
    let seen = conflict(&o.two, &id).await.ok();
    assert_eq!((&seen["server"], &seen["current"], &seen["version"]), (&Value::Null, &Value::Null, &Value::Null));
    resolve(&o.two, &id, json!({ "resolution": "use_client" })).await.refused(422, "invalid_record");
    let good = json!({ "resolution": "use_merged", "merged_data": { "score": 5, "store_id": "A" }, "version": 0 });
    assert_eq!(resolve(&o.two, &id, good).await.ok()["conflict"]["current"]["data"]["passed"], true);
    resolve(&o.boss, &id, json!({ "resolution": "use_server", "revert": true })).await.ok();
    assert_eq!(o.boss.record("quizzes", "q").await.ok()["record"]["deleted"], true);

    // A conflict that the script left: the whole change waits, what it brings along too.
    o.begin("offers", json!({ "price": 1, "a": 0, "b": 0 })).await;
    o.edit(&o.one, "offers", 60, json!({ "price": 2, "a": 1, "b": 0 })).await;
    let left = o.edit(&o.two, "offers", 30, json!({ "price": 3, "a": 0, "b": 1 })).await;
    assert_eq!((&left["reason"], &left["fields"]), (&json!("script_failed"), &json!(["price"])));
    resolve(&o.one, &id_of(&left), json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("offers").await, json!({ "version": 3, "store_id": "A", "price": 3, "a": 1, "b": 1 }));
    resolve(&o.boss, &id_of(&left), json!({ "resolution": "use_server", "revert": true })).await.ok();
    assert_eq!(o.record("offers").await, json!({ "version": 4, "store_id": "A", "price": 2, "a": 1, "b": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_the_next_edit_after_a_decision() {
    let o = office().await;
    o.begin("cases", json!({ "a": 0, "b": 0 })).await;
    o.edit(&o.one, "cases", 60, json!({ "a": 1, "b": 0 })).await;
    let push = json!({ "operations": [{ "op_id": "mine", "table": "cases", "id": "r", "op": "update", "base": { "version": 1 },
                       "updated_at": at(&o.office, -30),
                       "data": { "store_id": "A", "a": 2, "b": 0 } }] });
    let first = o.two.push(push.clone()).await.conflict("r").clone();
    let merged = json!({ "resolution": "use_merged", "merged_data": { "a": 7, "b": 0 } });
    resolve(&o.boss, &id_of(&first), merged).await.ok();
    let again = o.two.push(push).await.conflict("r").clone();
    assert_eq!((&again["conflict_id"], &again["status"], &again["version"]), (&first["conflict_id"], &json!("resolved"), &json!(3)));
    // The decision is nobody's own: for the device that lost it is somebody else's change, and its next edit waits anew.
    let next = o.edit(&o.two, "cases", 10, json!({ "a": 4, "b": 0 })).await;
    assert_ne!(id_of(&next), id_of(&first));
    assert_eq!((next["status"].clone(), o.open().await), (json!("open"), 1));
    // Two changes that joined are decided together, with the content of the last.
    let joined = o.edit(&o.two, "cases", 5, json!({ "a": 5, "b": 6 })).await;
    assert_eq!(id_of(&joined), id_of(&next));
    let seen = conflict(&o.boss, &id_of(&next)).await.ok();
    resolve(&o.boss, &id_of(&next), json!({ "resolution": "use_client", "version": seen["current"]["version"] })).await.ok();
    let now = o.record("cases").await;
    assert_eq!((&now["a"], &now["b"]), (&json!(5), &json!(6)));
    assert_eq!(o.open().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_hundred_conflicts_page_by_page() {
    let o = office().await;
    for part in 0..3 {
        let records = |version: i64| -> Vec<Value> {
            (0..400).map(|n| json!({ "id": format!("r{}", part * 400 + n), "version": version, "store_id": "A", "a": version })).collect()
        };
        let table = if part == 2 { "board" } else { "cases" };
        o.one.push(json!({ "changes": { table: records(0) } })).await;
        let pushed = o
            .two
            .push(json!({ "changes": { table: records(0).into_iter().map(|mut r| { r["a"] = json!(9); r }).collect::<Vec<_>>() } }))
            .await;
        assert_eq!(pushed.0["conflicts"].as_array().unwrap().len(), 400);
    }
    assert_eq!(o.open().await, 1_200);
    let pages = async |device: &Device, query: &str| {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let list = device.get(&format!("/api/v1/sync/conflicts?{query}{after}")).await.ok();
            found.extend(list["conflicts"].as_array().unwrap().iter().map(id_of));
            pages += 1;
            match list["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "newest first, each once");
        (found, pages)
    };
    let (all, count) = pages(&o.boss, "limit=500").await;
    assert_eq!((all.len(), count), (1_200, 3));
    for (query, wanted) in [
        ("status=open", 1_200),
        ("status=resolved", 0),
        ("table=board", 400),
        ("table=cases&status=open&limit=400", 800),
        ("table=cases&record=r7", 1),
        ("device_id=cleo-1&limit=300", 1_200),
        ("device_id=cleo-1&table=board&limit=399", 400),
        ("device_id=ben-1", 0),
        ("device_id=nobody", 0),
    ] {
        assert_eq!(pages(&o.boss, query).await.0.len(), wanted, "{query}");
    }
    // The author sees all of them, the other till those of the store's records, the other store none.
    assert_eq!(pages(&o.two, "limit=250").await.0, all);
    assert_eq!(pages(&o.one, "limit=499").await.0.len(), 800);
    assert_eq!(pages(&o.south, "").await.0.len(), 0);
    assert_eq!(o.one.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 800);
    for id in all.iter().take(3) {
        resolve(&o.boss, id, json!({ "resolution": "use_server" })).await.ok();
    }
    assert_eq!(pages(&o.boss, "status=resolved").await.0, all[..3]);
    assert_eq!(pages(&o.boss, "limit=500").await.0, all);
    assert_eq!(o.open().await, 1_197);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_kept_for_as_long_as_retention_from_then_on() {
    let o = office().await;
    let id = o.fields_clash().await;
    let ruled = o.clash("prices", json!({ "a": 1 }), json!({ "a": 2 })).await;
    for device in [&o.one, &o.two] {
        device.pull().await;
    }
    let admin = o.office.chief("root").await;
    o.office.clock.advance(80 * DAY);
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    o.office.clock.advance(20 * DAY);
    let mut device = o.two.clone();
    for _ in 0..2 {
        device.sync().await;
    }
    admin.post("/api/v1/sync/cleanup", json!({ "days_old": 90 })).await.ok();
    conflict(&o.boss, &ruled).await.refused(404, "not_found");
    assert_eq!(conflict(&o.boss, &id).await.ok()["resolved"]["by"], "anna");
    o.office.clock.advance(80 * DAY);
    for _ in 0..2 {
        device.sync().await;
    }
    admin.post("/api/v1/sync/cleanup", json!({ "days_old": 90 })).await.ok();
    conflict(&o.boss, &id).await.refused(404, "not_found");
    // The base of a decision is the present version, whatever history was purged.
    assert_eq!(o.record("cases").await["a"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_survives_a_restart() {
    let o = office().await;
    let id = o.fields_clash().await;
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    let (before, boss) = (o.record("cases").await, o.boss.clone());
    let office = o.office.restart(RULES).await;
    let boss = Device { address: office.address, ..boss };
    let seen = conflict(&boss, &id).await.ok();
    assert_eq!((&seen["status"], &seen["current"]["version"]), (&json!("resolved"), &before["version"]));
    assert_eq!(boss.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_fails_inside_leaves_nothing() {
    let o = office().await;
    let id = o.fields_clash().await;
    let meddle =
        |sql: &str| rusqlite::Connection::open(o.office.directory.join(backroom::server::DATABASE)).unwrap().execute_batch(sql).unwrap();
    // The audit row is the last thing that a decision writes.
    meddle("ALTER TABLE audit RENAME TO mislaid");
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.refused(500, "internal");
    restore(&o.boss, "cases/r", "1", json!({})).await.refused(500, "internal");
    meddle("ALTER TABLE mislaid RENAME TO audit");
    assert_eq!(o.record("cases").await, json!({ "version": 2, "store_id": "A", "a": 1, "b": 0 }));
    assert_eq!((o.open().await, conflict(&o.boss, &id).await.ok()["resolved"].clone()), (1, Value::Null));
    resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await.ok();
    assert_eq!(o.record("cases").await["version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purged_record_is_not_brought_back() {
    let o = office().await;
    let id = o.fields_clash().await;
    o.boss.push_one("cases", json!({ "id": "r", "version": 2, "deleted": true })).await.applied("cases", "r");
    let admin = o.office.chief("root").await;
    o.office.clock.advance(100 * DAY);
    admin.post("/api/v1/sync/cleanup", json!({ "days_old": 90 })).await.ok();
    o.boss.record("cases", "r").await.refused(404, "not_found");
    assert_eq!(conflict(&o.boss, &id).await.ok()["current"], Value::Null);
    conflict(&o.one, &id).await.refused(404, "not_found");
    for body in [
        json!({ "resolution": "use_client" }),
        json!({ "resolution": "use_client", "version": 2 }),
        json!({ "resolution": "use_client", "version": 0 }),
        json!({ "resolution": "use_merged", "version": 0, "merged_data": { "store_id": "A", "a": 1 } }),
    ] {
        let refused = resolve(&o.boss, &id, body).await;
        refused.refused(409, "conflict_changed");
        assert_eq!(refused.body["version"], 0);
    }
    let kept = resolve(&o.boss, &id, json!({ "resolution": "use_server" })).await.ok();
    assert_eq!((&kept["version"], &kept["conflict"]["resolved"]["version"]), (&Value::Null, &Value::Null));
    assert_eq!(o.open().await, 0);
}

async fn restore(device: &Device, record: &str, version: &str, body: Value) -> Answer {
    device.post(&format!("/api/v1/records/{record}/history/{version}/restore"), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_is_restored_as_a_new_one() {
    let o = office().await;
    o.begin("cases", json!({ "a": 1, "o": { "x": 1, "y": 1 } })).await;
    o.meanwhile(&o.one, "cases", json!({ "a": 2, "o": { "x": 1, "y": 2 } })).await;
    o.one.push_one("cases", json!({ "id": "r", "version": 2, "deleted": true })).await.applied("cases", "r");
    let history = o.boss.get("/api/v1/records/cases/r/history").await.ok()["history"].clone();
    assert_eq!(history[1]["changed"], json!(["a", "o.y"]));
    // A stale look, a tombstone, no such version, no such record; another store learns nothing.
    let stale = restore(&o.one, "cases/r", "1", json!({ "version": 2 })).await;
    stale.refused(409, "conflict_changed");
    assert_eq!(stale.body["version"], 3);
    restore(&o.one, "cases/r", "3", json!({})).await.refused(422, "invalid_record");
    for version in ["4", "0", "-1", "x", "99999999999999999999"] {
        restore(&o.one, "cases/r", version, json!({})).await.refused(404, "not_found");
    }
    let (hidden, absent) = (restore(&o.south, "cases/r", "1", json!({})).await, restore(&o.south, "cases/none", "1", json!({})).await);
    hidden.refused(404, "not_found");
    assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
    restore(&o.one, "vault/r", "1", json!({})).await.refused(403, "forbidden");
    // It lives again.
    let mut replica = Replica::new(o.two.clone());
    replica.pull().await;
    let back = restore(&o.one, "cases/r", "1", json!({ "version": 3 })).await.ok();
    assert_eq!((&back["version"], &back["record"]["a"], &back["record"]["version"]), (&json!(4), &json!(1), &json!(4)));
    assert_eq!(back["hash"], o.boss.record("cases", "r").await.ok()["hash"]);
    assert_eq!(o.record("cases").await, json!({ "version": 4, "store_id": "A", "a": 1, "o": { "x": 1, "y": 1 } }));
    replica.pull().await;
    assert_eq!(replica.holds(), replica.truth().await);
    let newest = o.boss.get("/api/v1/records/cases/r/history").await.ok()["history"][0].clone();
    assert_eq!((&newest["rule"], &newest["user"], &newest["device_id"]), (&json!("restore"), &json!("ben"), &Value::Null));
    assert_eq!((&newest["changed"], &newest["conflict_id"]), (&json!(["a", "o.y"]), &Value::Null));
    // What it is already is not written again.
    let same = restore(&o.one, "cases/r", "1", json!({ "version": 4 })).await.ok();
    assert_eq!(same["version"], 4);
    let audit: String =
        o.office.ask("SELECT group_concat(actor || ' ' || subject || ' ' || detail, ', ') FROM audit WHERE action = 'restore'").await;
    assert_eq!(audit, r#"ben cases/r {"record":"r","restored":1,"table":"cases","version":4}"#);
    assert_eq!(o.open().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_history_hides_is_not_restored_and_the_table_decides_what_may_be() {
    let o = office().await;
    o.begin("notes", json!({ "a": 1 })).await;
    o.boss.push_one("notes", json!({ "id": "r", "version": 1, "store_id": "B", "a": 2 })).await.applied("notes", "r");
    o.boss.push_one("notes", json!({ "id": "r", "version": 2, "store_id": "A", "a": 3 })).await.applied("notes", "r");
    let (hidden, absent) = (restore(&o.one, "notes/r", "2", json!({})).await, restore(&o.one, "notes/r", "9", json!({})).await);
    hidden.refused(404, "not_found");
    assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
    restore(&o.one, "notes/r", "1", json!({})).await.ok();
    // A manager hands it back to where it was.
    restore(&o.boss, "notes/r", "2", json!({})).await.ok();
    o.one.record("notes", "r").await.refused(404, "not_found");
    assert_eq!(o.south.record("notes", "r").await.ok()["record"]["a"], 2);

    o.boss.push_one("plans", json!({ "id": "r", "store_id": "A", "a": 1 })).await.applied("plans", "r");
    restore(&o.one, "plans/r", "1", json!({})).await.refused(403, "forbidden");
    // Rules that came later hold for what was before.
    let office = Appliance::with("[tables.forms]\n").await;
    let boss = office.boss("anna").await;
    boss.push_one("forms", json!({ "id": "f" })).await.applied("forms", "f");
    boss.push_one("forms", json!({ "id": "f", "version": 1, "title": "t" })).await.applied("forms", "f");
    office.reload("[tables.forms]\nrequired = [\"title\"]\n").await;
    restore(&boss, "forms/f", "1", json!({})).await.refused(422, "invalid_record");
    office.reload("[tables.forms]\nappend_only = true\n").await;
    restore(&boss, "forms/f", "1", json!({})).await.refused(422, "immutable");
}
