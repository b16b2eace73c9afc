//! Who sees what: a store's device never learns anything of another store's records, by any way.

use backroom::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::quick::{at, without_request_id};
use crate::support::replica::Replica;
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.visits]
rule = "latest_wins"
scope = "store"
[tables.people]
rule = "server_wins"
scope = "store"
unique = ["email"]
[tables.diaries]
scope = "user"
rule = "latest_wins"
[tables.forms]
write = "manager"
[tables.audits]
read = "manager"
scope = "store"
[tables.box]
read = "manager"
rule = "server_wins"
unique = ["email"]
"#;

/// Words that stand in store B's records alone, and that no answer to store A may hold.
const SECRETS: [&str; 4] = ["sesame", "b-only", "bob@south", "dora"];

/// Two stores with a device each, and a manager; store B has records in every table.
struct Shops {
    office: Appliance,
    boss: Device,
    north: Device,
    south: Device,
}

async fn shops() -> Shops {
    let office = Appliance::with(RULES).await;
    let (boss, north, south) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    let shops = Shops { office, boss, north, south };
    let south = &shops.south;
    south.push_one("visits", json!({ "id": "b-only", "note": "sesame" })).await.applied("visits", "b-only");
    south.push_one("people", json!({ "id": "b-only-p", "email": "bob@south" })).await.applied("people", "b-only-p");
    south.push_one("diaries", json!({ "id": "b-only-d", "text": "sesame" })).await.applied("diaries", "b-only-d");
    south.push_one("audits", json!({ "id": "b-only-a", "text": "sesame" })).await.applied("audits", "b-only-a");
    south.push_one("box", json!({ "id": "b-only-x", "email": "bob@south" })).await.applied("box", "b-only-x");
    shops
}

#[track_caller]
fn silent(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

impl Shops {
    /// A record of store A that both devices of the story know about, at version 1.
    async fn shared(&self, id: &str) {
        self.north
            .push_one("visits", json!({ "id": id, "note": "ours", "updated_at": at(&self.office, -600) }))
            .await
            .applied("visits", id);
    }

    /// The manager moves it to B, and B writes into it.
    async fn lost(&self, id: &str) {
        let version = self.boss.record("visits", id).await.ok()["record"]["version"].clone();
        let moved = json!({ "id": id, "version": version, "store_id": "B", "note": "moved" });
        self.boss.push_one("visits", moved).await.applied("visits", id);
        let mine = self.south.record("visits", id).await.ok()["record"]["version"].clone();
        self.south.push_one("visits", json!({ "id": id, "version": mine, "store_id": "B", "note": "sesame" })).await.applied("visits", id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_store_is_in_any_answer() {
    let s = shops().await;
    s.shared("r").await;
    s.lost("r").await;
    let north = &s.north;
    silent(&north.try_pull(json!({})).await.text);
    silent(&north.try_pull(json!({ "tables": ["visits", "people", "diaries"], "limit": 1 })).await.text);
    let mut texts = Vec::new();
    for path in ["/api/v1/sync/status", "/api/v1/sync/devices", "/api/v1/records/visits/r", "/api/v1/records/visits/r/history"] {
        texts.push(north.get(path).await.text);
    }
    // Pushes that touch what is B's: by id, by key, by every form of base.
    for record in [
        json!({ "id": "b-own", "email": "bob@south", "x": 1 }),
        json!({ "id": "r", "version": 1, "note": "mine" }),
        json!({ "id": "r", "version": 2, "note": "mine" }),
        json!({ "id": "r", "version": 1, "deleted": true }),
        json!({ "id": "r", "note": "mine" }),
    ] {
        for table in ["visits", "people", "diaries", "audits", "box"] {
            for extra in [json!({}), json!({ "dry_run": true }), json!({ "atomic": true })] {
                let mut body = json!({ "changes": { table: [record] } });
                body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                let mut text = north.try_push(body.clone()).await.text;
                if table == "people" && record["email"] == "bob@south" {
                    // Its own words, said by itself.
                    text = text.replace("bob@south", "");
                }
                text = text.replace(r#""email":"bob@south""#, "");
                texts.push(text);
            }
        }
    }
    texts.push(north.get("/api/v1/sync/devices/ben-1/rejected").await.text);
    texts.iter().for_each(|text| silent(&text.replace("b-own", "").replace("bob@south\\\"", "")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_of_another_store_is_free_in_ones_own() {
    let s = shops().await;
    let entry = s.north.push_one("people", json!({ "id": "p", "email": "bob@south" })).await;
    assert_eq!(entry.applied("people", "p")["status"], "applied");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_cover_ones_own_view() {
    let s = shops().await;
    let counts = |answer: Value| answer["counts"].clone();
    let empty = counts(s.north.get("/api/v1/sync/status").await.ok());
    for name in ["records", "tombstones", "open_conflicts", "changes_24h", "conflicts_24h"] {
        assert_eq!(empty[name], 0, "{name}");
    }
    s.shared("r").await;
    assert_eq!(counts(s.north.get("/api/v1/sync/status").await.ok())["records"], 1);
    s.lost("r").await;
    // What A tries on it now is an open conflict, and that is B's record.
    s.north.push_one("visits", json!({ "id": "r", "version": 1, "note": "mine" })).await.conflict("r");
    let after = counts(s.north.get("/api/v1/sync/status").await.ok());
    assert_eq!((&after["records"], &after["open_conflicts"]), (&json!(0), &json!(0)));
    assert_eq!(counts(s.boss.get("/api/v1/sync/status").await.ok())["open_conflicts"], 1);
    let south = s.south.get("/api/v1/sync/status").await.ok();
    assert_eq!(south["counts"]["records"], 4, "{south}");
    let names = |answer: &Value| answer["devices"].as_array().unwrap().iter().map(|d| d["device_id"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&south), ["dora-1"]);
    assert_eq!(names(&s.boss.get("/api/v1/sync/status").await.ok()).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_and_absent_are_the_same_answer() {
    let s = shops().await;
    s.shared("r").await;
    s.lost("r").await;
    let same = |hidden: &str, absent: &str, id: &str| {
        let (mut hidden, mut absent) = (without_request_id(hidden), without_request_id(absent));
        for body in [&mut hidden, &mut absent] {
            for name in ["head", "timestamp"] {
                body.as_object_mut().unwrap().remove(name);
            }
        }
        // Derived op_ids are hashes of what was sent, ids included.
        assert_eq!(hidden.to_string().replace(id, "absent"), absent.to_string());
    };
    for (table, id) in [("visits", "b-only"), ("visits", "r"), ("people", "b-only-p"), ("diaries", "b-only-d")] {
        for tail in ["", "/history"] {
            let hidden = s.north.get(&format!("/api/v1/records/{table}/{id}{tail}")).await;
            let absent = s.north.get(&format!("/api/v1/records/{table}/absent{tail}")).await;
            hidden.refused(404, "not_found");
            assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
        }
    }
    // A push that names another's store or user fares alike wherever its id stands.
    for (table, id, scope) in [
        ("visits", "b-only", json!({ "store_id": "B" })),
        ("people", "b-only-p", json!({ "store_id": "B" })),
        ("diaries", "b-only-d", json!({ "user_id": "dora" })),
    ] {
        for base in [json!({}), json!({ "version": 1 }), json!({ "version": 9 })] {
            for extra in [json!({}), json!({ "dry_run": true })] {
                let push = |id: &str| {
                    let mut record = scope.clone();
                    record.as_object_mut().unwrap().extend(base.as_object().unwrap().clone());
                    record["id"] = json!(id);
                    let mut body = json!({ "changes": { table: [record] } });
                    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
                    body
                };
                let (hidden, absent) = (s.north.try_push(push(id)).await, s.north.try_push(push("absent")).await);
                assert_eq!(hidden.body["rejected"][0]["code"], "forbidden");
                same(&hidden.text, &absent.text, id);
            }
        }
    }
    // An id that was never in view is forbidden in its own store too, whatever stands in the way.
    for change in
        [json!({ "id": "b-only", "note": "x" }), json!({ "id": "b-only", "version": 1 }), json!({ "id": "b-only", "deleted": true })]
    {
        assert_eq!(s.north.push_one("visits", change).await.rejected("b-only"), "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_what_left_the_view_waits_for_a_manager_and_tells_nothing() {
    let s = shops().await;
    s.shared("r").await;
    s.lost("r").await;
    let change = json!({ "changes": { "visits": [{ "id": "r", "version": 1, "note": "mine" }] } });
    let first = s.north.push(change.clone()).await.0;
    let conflict = &first["conflicts"][0];
    assert_eq!((&conflict["status"], &conflict["winner"], &conflict["reason"]), (&json!("open"), &json!("none"), &json!("left_view")));
    assert_eq!((&conflict["server_data"], &conflict["version"]), (&Value::Null, &Value::Null));
    assert_eq!(conflict["client_data"]["note"], "mine");
    silent(&first.to_string());
    // B's record is as it was; the change is kept.
    assert_eq!(s.south.record("visits", "r").await.ok()["record"]["note"], "sesame");
    let (client, server): (String, String) =
        (s.office.ask("SELECT client FROM conflicts").await, s.office.ask("SELECT server FROM conflicts").await);
    assert!(client.contains("mine") && server.contains("sesame"));
    // A retry says the same, also once the record is back, which by then is no secret, but what it was meanwhile is.
    let version = s.boss.record("visits", "r").await.ok()["record"]["version"].clone();
    assert_eq!(s.north.push(change.clone()).await.0["conflicts"], first["conflicts"]);
    s.boss.push_one("visits", json!({ "id": "r", "version": version, "store_id": "A", "note": "back" })).await.applied("visits", "r");
    let again = s.north.push(change).await.0;
    assert_eq!(again["conflicts"][0]["conflict_id"], conflict["conflict_id"]);
    silent(&again.to_string());
    // What A sees of its history leaves out the time with B.
    let history = s.north.get("/api/v1/records/visits/r/history").await;
    silent(&history.text);
    let versions: Vec<_> = history.body["history"].as_array().unwrap().iter().map(|entry| entry["version"].clone()).collect();
    assert_eq!(versions, [4, 1]);
    assert_eq!(history.body["history"][0]["changed"], json!(["note"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_conflict_that_a_change_from_outside_the_view_joins_keeps_its_silence() {
    let rules = RULES.replace("[tables.visits]\nrule = \"latest_wins\"", "[tables.visits]\nrule = \"manual\"");
    let office = Appliance::with(&rules).await;
    let (boss, north, south) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    let s = Shops { office, boss, north, south };
    s.shared("r").await;
    s.boss.push_one("visits", json!({ "id": "r", "version": 1, "store_id": "A", "note": "office" })).await.applied("visits", "r");
    let other = s.office.enrolled("ben", "2").await;
    other.pull().await;
    let first = json!({ "changes": { "visits": [{ "id": "r", "version": 1, "store_id": "A", "note": "mine" }] } });
    let open = other.push(first.clone()).await.0["conflicts"][0].clone();
    assert_eq!(open["server_data"]["note"], "office");
    s.lost("r").await;
    let joined = other.push_one("visits", json!({ "id": "r", "version": 1, "store_id": "A", "note": "mine still" })).await;
    assert_eq!(joined.conflict("r")["conflict_id"], open["conflict_id"]);
    let version = s.boss.record("visits", "r").await.ok()["record"]["version"].clone();
    s.boss.push_one("visits", json!({ "id": "r", "version": version, "store_id": "A", "note": "back" })).await.applied("visits", "r");
    silent(&other.push(first).await.0.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_evicts_from_one_store_shows_up_in_the_other_and_back_again() {
    let s = shops().await;
    s.shared("r").await;
    s.shared("stays").await;
    let (mut north, mut late, mut south, mut boss) = (
        Replica::new(s.north.clone()),
        Replica::new(s.office.enrolled("ben", "2").await),
        Replica::new(s.south.clone()),
        Replica::new(s.boss.clone()),
    );
    for replica in [&mut north, &mut late, &mut south, &mut boss] {
        replica.pull().await;
    }
    let key = ("visits".to_owned(), "r".to_owned());
    assert!(north.mirror.contains_key(&key) && !south.mirror.contains_key(&key));
    s.lost("r").await;
    let page = s.north.pull_with(json!({ "cursor": north.cursor })).await;
    assert_eq!((page.evicted(), page.ids().len()), (vec!["visits/r".to_owned()], 0));
    silent(&page.0.to_string());
    for replica in [&mut north, &mut south, &mut boss] {
        replica.pull().await;
    }
    assert!(!north.mirror.contains_key(&key));
    assert_eq!(south.mirror[&key]["note"], "sesame");
    assert_eq!(boss.mirror[&key]["note"], "sesame");
    assert!(boss.evicted.is_empty() && south.evicted.is_empty());
    // Back: no eviction any more, for those who pulled between and for those who did not.
    s.boss.push_one("visits", json!({ "id": "r", "version": 3, "store_id": "A", "note": "home" })).await.applied("visits", "r");
    for replica in [&mut north, &mut late, &mut south, &mut boss] {
        replica.pull().await;
        assert_eq!(replica.holds(), replica.truth().await, "{}", replica.device.id);
    }
    assert_eq!(north.mirror[&key]["note"], "home");
    assert!(late.evicted.is_empty());
    // A new device of A never hears of what left before it came.
    s.lost("stays").await;
    let fresh = s.office.enrolled("ben", "3").await.pull().await;
    assert!(fresh.evicted().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn users_with_two_stores_and_with_none() {
    let s = shops().await;
    let both = s.office.someone("cleo", Role::Store, &["A", "B"]).await;
    let none = s.office.someone("nina", Role::Store, &[]).await;
    s.shared("r").await;
    let mut ids = both.pull().await.ids();
    ids.sort();
    assert_eq!(ids, ["people/b-only-p", "visits/b-only", "visits/r"]);
    assert!(none.pull().await.ids().is_empty());
    for device in [&both, &none] {
        assert_eq!(device.push_one("visits", json!({ "id": "n" })).await.rejected("n"), "store_required");
    }
    both.push_one("visits", json!({ "id": "n", "store_id": "B" })).await.applied("visits", "n");
    assert_eq!(none.push_one("visits", json!({ "id": "m", "store_id": "B" })).await.rejected("m"), "forbidden");
    // An edit keeps the store that the record has, and this user may move it between its two.
    both.push_one("visits", json!({ "id": "n", "version": 1, "x": 1 })).await.applied("visits", "n");
    assert_eq!(s.south.record("visits", "n").await.ok()["record"]["store_id"], "B");
    both.push_one("visits", json!({ "id": "n", "version": 2, "store_id": "A" })).await.applied("visits", "n");
    s.south.record("visits", "n").await.refused(404, "not_found");
    assert!(both.pull().await.evicted().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_own_records_are_theirs_and_the_managers() {
    let s = shops().await;
    let second = s.office.enrolled("dora", "2").await;
    assert!(second.pull().await.ids().contains(&"diaries/b-only-d".to_owned()));
    let colleague = s.office.clerk("dirk", "B").await;
    assert!(!colleague.pull().await.ids().iter().any(|id| id.starts_with("diaries/")));
    assert!(s.boss.pull().await.ids().contains(&"diaries/b-only-d".to_owned()));
    assert_eq!(s.boss.record("diaries", "b-only-d").await.ok()["record"]["user_id"], "dora");
    assert_eq!(colleague.push_one("diaries", json!({ "id": "x", "user_id": "dora" })).await.rejected("x"), "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_managers_read_comes_to_no_store_and_a_drop_box_gives_nothing_back() {
    let s = shops().await;
    for table in ["audits", "box"] {
        s.south.try_pull(json!({ "tables": [table] })).await.refused(403, "forbidden");
        s.south.get(&format!("/api/v1/records/{table}/b-only-a")).await.refused(403, "forbidden");
        s.south.get(&format!("/api/v1/records/{table}/b-only-a/history")).await.refused(403, "forbidden");
    }
    let ids = s.south.pull().await.ids();
    assert!(!ids.iter().any(|id| id.starts_with("audits/") || id.starts_with("box/")), "{ids:?}");
    let status = s.south.get("/api/v1/sync/status").await.ok();
    assert!(status["tables"].get("box").is_none(), "{status}");
    assert!(s.boss.pull().await.ids().contains(&"audits/b-only-a".to_owned()));
    // Into the box, from the other shop: conflicts with what is there show nothing of it, at first and when repeated.
    s.boss
        .push_one("box", json!({ "id": "b-only-x", "version": 1, "email": "bob@south", "note": "sesame" }))
        .await
        .applied("box", "b-only-x");
    for change in [
        json!({ "table": "box", "id": "mine", "op": "create", "data": { "email": "bob@south" }, "op_id": "clash" }),
        json!({ "table": "box", "id": "b-only-x", "op": "update", "patch": { "x": 1 }, "base": { "version": 1 }, "op_id": "over" }),
        json!({ "table": "box", "id": "b-only-x", "op": "update", "patch": {}, "base": { "version": 2 }, "op_id": "patch" }),
        json!({ "table": "box", "id": "b-only-x", "op": "delete", "base": { "version": 1 }, "op_id": "delete" }),
    ] {
        let mut answers = Vec::new();
        for _ in 0..2 {
            answers.push(s.north.operate(change.clone()).await.0);
        }
        for answer in &answers {
            assert!(!answer.to_string().contains("sesame"), "{change}: {answer}");
            let conflict = &answer["conflicts"][0];
            if !conflict.is_null() {
                assert_eq!((&conflict["server_data"], &conflict["version"]), (&Value::Null, &Value::Null), "{change}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_gets_or_loses_a_store_starts_over_and_ends_right() {
    let s = shops().await;
    s.shared("r").await;
    let mut replica = Replica::new(s.north.clone());
    replica.limit = 1;
    replica.pull().await;
    for (role, stores, resets) in [
        (Role::Store, &["A", "B"][..], 2),
        (Role::Store, &["B"], 3),
        // Lost and regained between two pulls: still a reset.
        (Role::Store, &["A"], 4),
        (Role::Store, &[], 5),
        (Role::Manager, &[], 6),
        (Role::Store, &["A"], 7),
    ] {
        replica.edit("visits", "mine", &json!({ "resets": resets }));
        s.office.role("ben", role, stores).await;
        replica.pull().await;
        assert_eq!(replica.resets, resets, "{role:?} {stores:?}");
        assert_eq!(replica.holds(), replica.truth().await);
        assert_eq!(replica.outbox.len(), resets - 1, "what was not pushed stays");
        let secret = replica.mirror.values().any(|record| record["note"] == "sesame");
        assert_eq!(secret, role == Role::Manager || stores.contains(&"B"));
    }
    replica.pull().await;
    assert_eq!(replica.resets, 7);
    s.office.role("ben", Role::Store, &["B"]).await;
    s.office.role("ben", Role::Store, &["A"]).await;
    replica.pull().await;
    assert_eq!(replica.resets, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_rules_of_who_shares_and_who_reads_start_everybody_over() {
    let rules = |forms: &str, visits: &str| format!("[tables.forms]\n{forms}\n[tables.visits]\n{visits}\n");
    let office = Appliance::with(&rules("", "scope = \"store\"")).await;
    let (boss, north, south) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    boss.push_one("forms", json!({ "id": "f", "store_id": "A" })).await.applied("forms", "f");
    for (device, id) in [(&north, "n"), (&south, "s")] {
        device.push_one("visits", json!({ "id": id })).await.applied("visits", id);
    }
    boss.push_one("visits", json!({ "id": "dead", "store_id": "A" })).await.applied("visits", "dead");
    boss.push_one("visits", json!({ "id": "dead", "version": 1, "deleted": true })).await.applied("visits", "dead");
    let (mut a, mut b, mut m) = (Replica::new(north.clone()), Replica::new(south), Replica::new(boss.clone()));
    let ids = |replica: &Replica| replica.mirror.keys().map(|(table, id)| format!("{table}/{id}")).collect::<Vec<_>>().join(" ");
    let mut resets = 0;
    for (forms, visits, in_a, in_b) in [
        ("", "scope = \"store\"", "forms/f visits/n", "forms/f visits/s"),
        ("read = \"manager\"", "scope = \"store\"", "visits/n", "visits/s"),
        ("read = \"store\"", "scope = \"office\"", "forms/f visits/n visits/s", "forms/f visits/n visits/s"),
        ("scope = \"store\"", "scope = \"store\"", "forms/f visits/n", "visits/s"),
        ("scope = \"store\"\nscope_field = \"shop\"", "scope = \"user\"", "", ""),
        ("", "scope = \"store\"", "forms/f visits/n", "forms/f visits/s"),
    ] {
        office.reload(&rules(forms, visits)).await;
        resets += 1;
        for replica in [&mut a, &mut b, &mut m] {
            replica.pull().await;
            assert_eq!(replica.resets, resets, "{forms} {visits}");
        }
        assert_eq!((ids(&a).as_str(), ids(&b).as_str()), (in_a, in_b), "{forms} {visits}");
        assert_eq!(ids(&m), "forms/f visits/n visits/s", "{forms} {visits}");
        // What a device sees in a pull is what it sees by address, and what is counted for it.
        for (table, id) in [("forms", "f"), ("visits", "n"), ("visits", "s")] {
            let seen = north.record(table, id).await.status.is_success();
            assert_eq!(seen, ids(&a).contains(&format!("{table}/{id}")), "{table}/{id} {forms} {visits}");
        }
        assert_eq!(north.get("/api/v1/sync/status").await.ok()["counts"]["records"], a.mirror.len(), "{forms} {visits}");
    }
    // Other changes of the rules disturb nobody.
    office.reload(&rules("rule = \"client_wins\"", "scope = \"store\"\nrule = \"latest_wins\"")).await;
    a.pull().await;
    assert_eq!(a.resets, resets);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_speaks_for_itself() {
    let s = shops().await;
    for path in ["/api/v1/sync/push", "/api/v1/sync/pull"] {
        s.north.post(path, json!({ "device_id": "dora-1" })).await.refused(403, "device_mismatch");
        s.north.post(path, json!({ "device_id": "nobody" })).await.refused(403, "device_mismatch");
        let request =
            s.north.request(Method::POST, path).header("x-device-id", "dora-1").header("content-type", "application/json").body("{}");
        s.north.send(request).await.refused(403, "device_mismatch");
        s.north.post(path, json!({ "device_id": "ben-1" })).await.ok();
    }
    let (hidden, absent) = (s.north.get("/api/v1/sync/devices/dora-1").await, s.north.get("/api/v1/sync/devices/nobody").await);
    hidden.refused(404, "not_found");
    assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
    let (hidden, absent) =
        (s.north.get("/api/v1/sync/status?device_id=dora-1").await, s.north.get("/api/v1/sync/status?device_id=x").await);
    assert_eq!(without_request_id(&hidden.text), without_request_id(&absent.text));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_record_is_told_alike_of_hidden_and_of_absent_ids() {
    let office = Appliance::with("[tables.tasks]\nscope = \"store\"\nrequired = [\"title\"]\n").await;
    let other = office.till("south", "B").await;
    other.push_one("tasks", json!({ "id": "hidden", "title": "Theirs" })).await.applied("tasks", "hidden");
    let till = office.till("north", "A").await;
    office.user("both", Role::Store, &["C", "D"]).await;
    let two = office.device("both", "1").await;
    let told = |answer: &crate::support::Pushed| answer.0["rejected"][0].to_string().replace("hidden", "ID").replace("absent", "ID");
    for (device, fields) in [
        (&till, json!({})),
        (&till, json!({ "title": "T", "store_id": 7 })),
        (&till, json!({ "title": "T", "store_id": "a b" })),
        (&till, json!({ "title": "T", "store_id": "B" })),
        (&two, json!({ "title": "T" })),
    ] {
        let push = async |id: &str| {
            let mut record = fields.clone();
            record["id"] = json!(id);
            told(&device.push_one("tasks", record).await)
        };
        let (hidden, absent) = (push("hidden").await, push("absent").await);
        assert_eq!(hidden, absent, "{fields}");
        assert!(hidden.contains("code"), "{fields} was refused: {hidden}");
    }
}
