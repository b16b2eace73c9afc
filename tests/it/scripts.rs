//! A table's own words: what its script derives and decides, what its schema refuses, and that neither harms anybody else.

use std::time::{Duration, Instant};

use backroom::config::Config;
use backroom::domain::actor::Role;
use serde_json::{Value, json};

use crate::support::quick::at;
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.progress]
rule = "latest_wins"
scope = "store"
merge = { percent = "max", spent = "sum", status = "derived" }
script = """
fn derive(record) {
  let percent = record.percent ?? 0;
  record.status = if percent >= 100 { "completed" } else if percent > 0 { "in_progress" } else { "not_started" };
  record
}
"""

[tables.offers]
rule = "script"
script = """
fn resolve(base, server, client, context) {
  if client == () || server == () { return "manual"; }
  if client.price == 13 { return "client"; }
  if client.price == 14 { return "server"; }
  if client.price == 15 { return "manual"; }
  if client.price == 16 { throw "no such price"; }
  if client.price == 17 { return 5; }
  if context.client.role == "manager" { return "client"; }
  server.price = (server.price + client.price) / 2;
  server.note = `${base.price} ${context.table} ${context.id} ${context.fields}`;
  server
}
"""

[tables.forms]
rule = "latest_wins"
scope = "store"

[tables.forms.schema]
type = "object"
required = ["title"]
properties = { title = { type = "string", maxLength = 5 }, count = { type = "integer", minimum = 0 }, limit = { type = "integer" } }
additionalProperties = true
if = { required = ["limit"], properties = { limit = { const = 1 } } }
then = { properties = { count = { maximum = 1 } } }

[tables.slow]
rule = "script"
script = """
fn resolve(base, server, client, context) { let n = 0; loop { n += 1; } }
"""

[tables.slowly]
script = """
fn derive(record) { if "stop" in record { record } else { let n = 0; loop { n += 1; } } }
"""

[tables.hostile]
rule = "script"
script = """
fn deep(n) { deep(n + 1) + 1 }
fn resolve(base, server, client, context) {
  if client.a == "deep" { return deep(0); }
  if client.a == "wide" { let text = "x"; loop { text += text; } }
  if client.a == "many" { let list = [0]; loop { list += list; } }
  if client.a == "steal" { server.id = "other"; return server; }
  "client"
}
"""

[tables.plain]
rule = "latest_wins"
"#;

struct Office {
    office: Appliance,
    boss: Device,
    one: Device,
    two: Device,
}

async fn office() -> Office {
    let office = Appliance::with(RULES).await;
    let (boss, one, two) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    Office { office, boss, one, two }
}

impl Office {
    /// Both edit version 1; how the second fared. The first is the manager's device.
    async fn clash(&self, table: &str, id: &str, begin: Value, first: Value, second: Value) -> Value {
        let operation = |data: Value, version: i64| json!({ "table": table, "id": id, "op": if version == 0 { "create" } else { "update" }, "data": data, "base": if version == 0 { Value::Null } else { json!({ "version": version }) }, "updated_at": at(&self.office, -100 + version) });
        self.two.operate(operation(begin, 0)).await.applied(table, id);
        self.two.operate(operation(first, 1)).await.applied(table, id);
        self.one.operate(operation(second, 1)).await.0
    }

    async fn value(&self, table: &str, id: &str) -> Value {
        self.boss.record(table, id).await.ok()["record"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_derived_is_derived_from_every_accepted_change() {
    let o = office().await;
    // A create: what was sent is not what is stored, so the answer has it.
    let pushed = o.one.push_one("progress", json!({ "id": "r", "percent": 40, "spent": 5, "status": "whatever" })).await;
    let entry = pushed.applied("progress", "r");
    assert_eq!(
        (&entry["status"], &entry["data"]["status"], &entry["data"]["store_id"]),
        (&json!("applied"), &json!("in_progress"), &json!("A"))
    );
    // Sent as it is stored, it is answered without.
    let pushed = o
        .one
        .push_one("progress", json!({ "id": "r", "version": 1, "percent": 50, "spent": 5, "status": "in_progress", "store_id": "A" }))
        .await;
    assert_eq!((&pushed.applied("progress", "r")["version"], pushed.applied("progress", "r").get("data")), (&json!(2), None));
    // A patch, and a merge with what another device did meanwhile; the devices' own words for the status are not compared.
    let patch = |percent: i64, spent: i64, status: &str| json!({ "table": "progress", "id": "r", "op": "update", "base": { "version": 2 }, "patch": { "percent": percent, "spent": spent, "status": status } });
    let first = o.two.operate(patch(100, 7, "completed")).await;
    assert_eq!(first.applied("progress", "r")["data"]["status"], "completed");
    let second = o.one.operate(patch(60, 9, "in_progress")).await;
    let entry = second.applied("progress", "r");
    assert_eq!(entry["status"], "merged");
    let data = &entry["data"];
    assert_eq!((&data["percent"], &data["spent"], &data["status"]), (&json!(100), &json!(11), &json!("completed")));
    // To say only another status says nothing.
    let again = o
        .two
        .operate(json!({ "table": "progress", "id": "r", "op": "update", "base": { "version": 4 }, "patch": { "status": "not_started" } }))
        .await;
    assert_eq!((&again.applied("progress", "r")["status"], &again.applied("progress", "r")["version"]), (&json!("noop"), &json!(4)));
    // A retry has the first answer and changes nothing.
    let retried = o.one.operate(patch(60, 9, "in_progress")).await;
    assert_eq!((&retried.applied("progress", "r")["version"], &retried.applied("progress", "r")["data"]["spent"]), (&json!(4), &json!(11)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_one_record_in_one_push_are_derived_one_after_the_other() {
    let o = office().await;
    for (atomic, dry) in [(false, false), (true, false), (false, true)] {
        let id = format!("r{atomic}{dry}");
        o.one.push_one("progress", json!({ "id": id, "percent": 0, "spent": 0 })).await;
        let operations: Vec<Value> = (1..=40)
            .map(|n| json!({ "op_id": format!("{id}-{n}"), "table": "progress", "id": id, "op": "update", "base": { "version": n }, "patch": { "percent": n * 3, "spent": n } }))
            .collect();
        let pushed = o.one.push(json!({ "operations": operations, "atomic": atomic, "dry_run": dry })).await;
        let entries = pushed.0["applied"]["progress"].as_array().unwrap();
        assert_eq!(entries.len(), 40, "{}", pushed.0);
        for (place, entry) in entries.iter().enumerate() {
            let n = place as i64 + 1;
            assert_eq!(entry["op_id"], format!("{id}-{n}"));
            let status = if n * 3 >= 100 { "completed" } else { "in_progress" };
            assert_eq!((&entry["version"], &entry["data"]["status"]), (&json!(n + 1), &json!(status)), "{entry}");
        }
        assert_eq!(o.value("progress", &id).await["spent"], json!(if dry { 0 } else { 40 }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_decides_conflicts() {
    let o = office().await;
    let begin = json!({ "price": 10, "note": "", "stock": 1 });
    for (price, winner, reason, stored) in [
        (13, "client", "rule", json!(13)),
        (14, "server", "rule", json!(20)),
        (15, "none", "rule", json!(20)),
        (16, "none", "script_failed", json!(20)),
        (17, "none", "script_failed", json!(20)),
        (30, "merged", "rule", json!(25)),
    ] {
        let id = format!("o{price}");
        let (first, second) = (json!({ "price": 20, "note": "", "stock": 1 }), json!({ "price": price, "note": "", "stock": 2 }));
        let pushed = o.clash("offers", &id, begin.clone(), first, second).await;
        let conflict = &pushed["conflicts"][0];
        assert_eq!(
            (&conflict["winner"], &conflict["reason"], &conflict["rule"]),
            (&json!(winner), &json!(reason), &json!("script")),
            "{pushed}"
        );
        assert_eq!(conflict["fields"], json!(["price"]));
        let now = o.value("offers", &id).await;
        assert_eq!(now["price"], stored, "{now}");
        match price {
            // What nobody else touched is taken with it, unless the whole change waits.
            13..=15 => assert_eq!(now["stock"], 2),
            30 => assert_eq!(now["note"], format!("10 offers {id} [\"price\"]")),
            _ => assert_eq!(now["stock"], 1),
        }
        if price == 16 {
            assert!(conflict["detail"].as_str().unwrap().contains("no such price"), "{conflict}");
            assert_eq!((&conflict["suggested_resolution"], &conflict["suggested_because"]), (&json!("use_server"), &json!("script")));
        }
    }
    // A delete is a side without a record.
    let deletes = json!({ "table": "offers", "id": "o14", "op": "delete", "base": { "version": 1 } });
    let conflict = o.one.operate(deletes).await.conflict("o14").clone();
    assert_eq!((&conflict["winner"], &conflict["fields"]), (&json!("none"), &json!(["*"])));
    // Roles are told: a manager's price counts.
    let manager = json!({ "table": "offers", "id": "o15", "op": "update", "base": { "version": 1 }, "data": { "price": 99, "note": "", "stock": 1 } });
    assert_eq!(o.boss.operate(manager).await.conflict("o15")["winner"], "client");
    // And a dry run says so beforehand, an atomic push refuses what would lose.
    let lost = json!({ "operations": [{ "op_id": "lost", "table": "offers", "id": "o14", "op": "update", "base": { "version": 1 }, "data": { "price": 14, "note": "x" } }], "atomic": true });
    o.one.try_push(lost).await.refused(409, "batch_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_refuses_with_path_and_reason() {
    let o = office().await;
    for (record, path) in [
        (json!({ "id": "a", "title": 5 }), "title"),
        (json!({ "id": "b", "title": "too long" }), "title"),
        (json!({ "id": "c", "title": "ok", "count": -1 }), "count"),
        (json!({ "id": "d" }), "title"),
    ] {
        let id = record["id"].as_str().unwrap().to_owned();
        let pushed = o.one.push(json!({ "changes": { "forms": [record, { "id": format!("{id}-neighbour"), "title": "fine" }] } })).await;
        assert_eq!(pushed.rejected(&id), "invalid_record");
        let detail = pushed.0["rejected"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(path) && detail.len() > path.len() + 5, "{detail}");
        pushed.applied("forms", &format!("{id}-neighbour"));
    }
    // A patch is judged by the whole that it makes.
    o.one.push_one("forms", json!({ "id": "r", "title": "one", "count": 1 })).await.applied("forms", "r");
    let patch = |value: Value| json!({ "table": "forms", "id": "r", "op": "update", "base": { "version": 1 }, "patch": value });
    assert_eq!(o.one.operate(patch(json!({ "count": "x" }))).await.rejected("r"), "invalid_record");
    // Two changes, each fitting, that do not fit together: nothing is written, and the second waits.
    o.one.operate(patch(json!({ "limit": 1 }))).await.applied("forms", "r");
    let conflict = o.two.operate(patch(json!({ "count": 2 }))).await.conflict("r").clone();
    assert_eq!((&conflict["reason"], &conflict["winner"], &conflict["version"]), (&json!("unfit"), &json!("none"), &json!(2)));
    assert!(conflict["detail"].as_str().unwrap().contains("count"), "{conflict}");
    assert_eq!(o.value("forms", "r").await["count"], 1);
    // A hidden id tells nothing more than a free one.
    let other = o.office.clerk("dora", "B").await;
    for id in ["r", "free"] {
        let bad = other.push_one("forms", json!({ "id": id, "title": 5 })).await;
        assert_eq!(bad.rejected(id), "invalid_record");
    }
    assert_eq!(other.push_one("forms", json!({ "id": "r", "title": "mine" })).await.rejected("r"), "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_scripts_leave_open_only_their_own_change() {
    let o = office().await;
    for (kind, reason) in [("deep", "script_failed"), ("wide", "script"), ("many", "script"), ("steal", "script_failed")] {
        let pushed = o.clash("hostile", kind, json!({ "a": "x" }), json!({ "a": "y" }), json!({ "a": kind })).await;
        let conflict = &pushed["conflicts"][0];
        assert!(conflict["reason"].as_str().unwrap().starts_with(reason) && conflict["winner"] == "none", "{pushed}");
        assert_eq!(o.value("hostile", kind).await["a"], "y");
    }
    // A derive that never ends: the create waits with what was sent, and its neighbours are written.
    let change = json!({ "changes": { "slowly": [{ "id": "r", "a": 1 }, { "id": "s", "stop": true }], "plain": [{ "id": "p" }] } });
    let pushed = o.one.push(change.clone()).await;
    let conflict = pushed.conflict("r").clone();
    assert_eq!(
        (&conflict["reason"], &conflict["server_data"], &conflict["version"]),
        (&json!("script_budget"), &Value::Null, &Value::Null)
    );
    assert_eq!(conflict["client_data"]["a"], 1);
    pushed.applied("slowly", "s");
    pushed.applied("plain", "p");
    // The same again is the same conflict.
    let again = o.one.push(change).await;
    assert_eq!(again.conflict("r")["conflict_id"], conflict["conflict_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_slow_scripts_hold_nobody_up() {
    let o = office().await;
    let records = |fields: Value| -> Vec<Value> {
        (0..5_000)
            .map(|n| {
                let mut record = fields.clone();
                record["id"] = json!(format!("r{n}"));
                record
            })
            .collect()
    };
    o.two.push(json!({ "changes": { "slow": records(json!({ "a": 1 })) } })).await;
    o.two.push(json!({ "changes": { "slow": records(json!({ "a": 2, "version": 1 })) } })).await;
    let (slow, body) = (o.one.clone(), json!({ "changes": { "slow": records(json!({ "a": 3, "version": 1 })) } }));
    let began = Instant::now();
    let pushing = tokio::spawn(async move { slow.push(body).await });
    // Meanwhile others push; the longest of them is told from the whole in the end.
    let (mut pushes, mut longest) = (0, Duration::ZERO);
    while !pushing.is_finished() {
        let sent = Instant::now();
        o.two.push_one("plain", json!({ "id": format!("p{pushes}") })).await.applied("plain", &format!("p{pushes}"));
        (pushes, longest) = (pushes + 1, longest.max(sent.elapsed()));
    }
    let pushed = pushing.await.unwrap();
    let conflicts = pushed.0["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 5_000);
    assert!(conflicts.iter().all(|conflict| conflict["reason"] == "script_budget" && conflict["status"] == "open"));
    // Each of the scripts would have run for ever; 5 ms each would be 25 s in one go.
    assert!(pushes > 1 && longest < began.elapsed(), "{pushes} pushes, the longest {longest:?} of {:?}", began.elapsed());
    let open: i64 = o.office.ask("SELECT count(*) FROM conflicts WHERE status = 'open'").await;
    assert_eq!(open, 5_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_script_is_in_force_after_a_reload() {
    let o = office().await;
    o.one.push_one("progress", json!({ "id": "r", "percent": 100 })).await;
    o.office.reload(&RULES.replace("\"completed\"", "\"done\"")).await;
    assert_eq!(o.value("progress", "r").await["status"], "completed", "what is stored stays");
    let pushed = o.one.push_one("progress", json!({ "id": "r", "version": 1, "percent": 101, "store_id": "A" })).await;
    assert_eq!(pushed.applied("progress", "r")["data"]["status"], "done");
}

#[test]
fn mistakes_in_scripts_and_schemas_are_named() {
    for (text, wanted) in [
        ("[tables.a]\nscript = \"fn derive(record) { record\"\n", vec!["tables.a", "script", "line 1"]),
        ("[tables.a]\nscript = \"let x = 1;\"\n", vec!["tables.a", "derive(record)"]),
        ("[tables.a]\nrule = \"script\"\n", vec!["tables.a", "needs a script"]),
        ("[tables.a]\nrule = \"script\"\nscript = \"fn derive(record) { record }\"\n", vec!["needs a script with a function resolve"]),
        ("[tables.a]\nmerge = { x = \"derived\" }\nscript = \"fn resolve(b, s, c, x) { 1 }\"\n", vec!["no function derive"]),
        ("[tables.a]\nmerge = { x = \"derived\" }\n", vec!["no script that derives it"]),
        ("[tables.a]\nmerge = { x = \"most\" }\n", vec!["most", "max, min, sum"]),
        ("[tables.a]\nmerge = { x = { function = \"max\", by = \"id\" } }\n", vec!["only \"union\" takes \"by\""]),
        ("[tables.a]\nmerge = { x = \"max\", \"x.y\" = \"max\" }\n", vec!["lies within"]),
        ("[tables.a]\nscope = \"store\"\nmerge = { store_id = \"max\" }\n", vec!["takes no merge function"]),
        ("[tables.a]\nschema = { type = \"objekt\" }\n", vec!["tables.a", "schema"]),
        ("[tables.a]\nschema = { \"$ref\" = \"https://example.org/x.json\" }\n", vec!["schema"]),
        ("[tables.a]\nstale = \"client_wins\"\n", vec!["stale", "line 2"]),
    ] {
        let error = Config::parse(text).map(|_| ()).unwrap_err().to_string();
        assert!(wanted.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_schemas_may_stand_in_files_beside_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("backroom.toml", "[tables.a]\nscript = \"a.rhai\"\nschema = \"a.schema.json\"\n");
    assert!(Config::load(directory.path()).map(|_| ()).unwrap_err().to_string().contains("a.rhai"));
    write("a.rhai", "fn derive(record) { record.b = record.a * 2; record }");
    write("a.schema.json", "{ \"properties\": { \"b\": { \"maximum\": 10 } }");
    assert!(Config::load(directory.path()).map(|_| ()).unwrap_err().to_string().contains("a.schema.json"));
    write("a.schema.json", "{ \"properties\": { \"b\": { \"maximum\": 10 } } }");
    let (config, _) = Config::load(directory.path()).unwrap();
    let rules = toml::to_string(&config).unwrap();
    let office = Appliance::with(&rules).await;
    let one = office.someone("ben", Role::Store, &["A"]).await;
    assert_eq!(one.push_one("a", json!({ "id": "r", "a": 4 })).await.applied("a", "r")["data"]["b"], 8);
    assert_eq!(one.push_one("a", json!({ "id": "s", "a": 6 })).await.rejected("s"), "invalid_record");
    for outside in ["../a.rhai", "/etc/a.rhai"] {
        write("backroom.toml", &format!("[tables.a]\nscript = \"{outside}\"\n"));
        assert!(Config::load(directory.path()).map(|_| ()).unwrap_err().to_string().contains("not in the data directory"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_foretold_and_what_is_refused_as_a_whole_is_decided_by_the_same_answers() {
    let o = office().await;
    // Many changes of one record, each a conflict for the script, after one without a time: it is told the same in each round.
    let operations = |kind: &str| -> Vec<Value> {
        let change = |n: i64| match n {
            0 => {
                json!({ "op_id": format!("{kind}{n}"), "table": "offers", "id": "r", "op": "update", "base": { "version": 2 }, "data": { "price": 20, "note": "", "z": 1 } })
            }
            _ => {
                json!({ "op_id": format!("{kind}{n}"), "table": "offers", "id": "r", "op": "update", "base": { "data": { "price": 10 + n } },
                         "patch": { "price": 13 }, "updated_at": at(&o.office, n) })
            }
        };
        (0..70).map(change).collect()
    };
    let begin = |price: i64, version: i64| json!({ "id": "r", "version": version, "price": price, "note": "" });
    o.two.push_one("offers", begin(10, 0)).await.applied("offers", "r");
    o.two.push_one("offers", begin(20, 1)).await.applied("offers", "r");
    let told = |answer: Value| -> Vec<Value> {
        let list = answer["conflicts"].as_array().unwrap().iter();
        list.map(|entry| json!([entry["winner"], entry["reason"], entry["fields"], entry["version"]])).collect()
    };
    let foretold = told(o.one.push(json!({ "operations": operations("d"), "dry_run": true })).await.0);
    let atomic = told(o.one.push(json!({ "operations": operations("a"), "atomic": true, "dry_run": true })).await.0);
    let happened = told(o.one.push(json!({ "operations": operations("p") })).await.0);
    assert!(!happened.is_empty() && happened.iter().all(|entry| entry[0] == "client"), "{happened:?}");
    assert_eq!((&foretold, &atomic), (&happened, &happened));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_was_derived_has_its_first_status() {
    let o = office().await;
    let create = json!({ "op_id": "k", "table": "progress", "id": "r", "op": "create", "base": null, "data": { "percent": 40 } });
    for _ in 0..3 {
        let pushed = o.one.operate(create.clone()).await;
        let entry = pushed.applied("progress", "r");
        assert_eq!((&entry["status"], &entry["version"], &entry["data"]["status"]), (&json!("applied"), &json!(1), &json!("in_progress")));
    }
}
