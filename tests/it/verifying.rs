//! Verify finds every difference between a device and the server and nothing else; delta says what differs in a record.

use std::collections::BTreeSet;
use std::time::Duration;

use backroom::auth::token;
use backroom::domain::actor::Role;
use backroom::domain::clock::DAY;
use backroom::domain::cursor::{Cursor, Epoch};
use backroom::protocol::problem::Code;
use backroom::sync::{Error, verify};
use serde_json::{Value, json};

use crate::support::quick::without_request_id;
use crate::support::replica::{Key, Replica, bucket};
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.notes]
rule = "latest_wins"
[tables.visits]
rule = "latest_wins"
scope = "store"
[tables.diaries]
rule = "latest_wins"
scope = "user"
[tables.payroll]
read = "manager"
"#;

fn key(table: &str, id: &str) -> Key {
    (table.to_owned(), id.to_owned())
}

async fn fill(device: &Device, table: &str, count: usize) {
    for chunk in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let records: Vec<Value> = chunk
            .iter()
            .map(|n| json!({ "id": format!("{table}{n}"), "n": n, "deep": { "é": [n, 1.5, "\u{1f600}\n"] }, "store_id": "A" }))
            .collect();
        let pushed = device.push(json!({ "changes": { table: records } })).await.0;
        assert_eq!(pushed["applied"][table].as_array().unwrap().len(), chunk.len(), "{pushed}");
    }
}

async fn pulled(device: &Device) -> Replica {
    let mut replica = Replica::new(device.clone());
    replica.pull().await;
    replica
}

async fn verified(device: &Device, request: Value) -> Value {
    device.post("/api/v1/sync/verify", request).await.ok()
}

/// What happened, to which records, and how.
type Damage = (&'static str, &'static [&'static str], fn(&mut Replica));

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_pulled_holds_what_it_should_and_every_damage_is_found_and_mended() {
    let office = Appliance::with(RULES).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    assert_eq!(pulled(&ben).await.verify().await, Some(true), "nothing is alike");
    fill(&boss, "notes", 300).await;
    fill(&boss, "visits", 300).await;
    for id in ["notes7", "notes8"] {
        boss.push_one("notes", json!({ "id": id, "version": 1, "deleted": true })).await.applied("notes", id);
    }
    boss.push_one("notes", json!({ "id": "notes9", "version": 1, "n": "changed" })).await.applied("notes", "notes9");
    let whole = pulled(&ben).await;
    assert_eq!((whole.mirror.len(), whole.verify().await), (598, Some(true)));
    assert!(whole.differing("notes").await.is_empty() && whole.differing("visits").await.is_empty());

    let damage: [Damage; 6] = [
        ("a lost record", &["notes3"], |r| drop(r.mirror.remove(&key("notes", "notes3")))),
        ("a wrong content", &["notes4"], |r| r.mirror.get_mut(&key("notes", "notes4")).unwrap()["deep"]["é"][0] = json!(5)),
        ("a field too many", &["notes4"], |r| r.mirror.get_mut(&key("notes", "notes4")).unwrap()["x"] = Value::Null),
        ("a stale version", &["notes9"], |r| r.mirror.get_mut(&key("notes", "notes9")).unwrap()["version"] = json!(1)),
        ("a deleted record", &["notes7"], |r| {
            let dead = json!({ "id": "notes7", "version": 1, "updated_at": "2025-01-01T00:00:00.000000Z", "n": 7 });
            r.mirror.insert(key("notes", "notes7"), dead);
        }),
        ("contents that changed places", &["notes1", "notes2"], |r| {
            let (one, two) = (r.mirror[&key("notes", "notes1")]["n"].clone(), r.mirror[&key("notes", "notes2")]["n"].clone());
            r.mirror.get_mut(&key("notes", "notes1")).unwrap()["n"] = two;
            r.mirror.get_mut(&key("notes", "notes2")).unwrap()["n"] = one;
        }),
    ];
    for (what, ids, harm) in damage {
        let mut broken = whole.clone();
        harm(&mut broken);
        assert_eq!(broken.verify().await, Some(false), "{what}");
        let buckets: BTreeSet<usize> = ids.iter().map(|id| bucket(id)).collect();
        assert_eq!(broken.differing("notes").await, buckets.into_iter().collect::<Vec<_>>(), "{what}");
        assert!(broken.differing("visits").await.is_empty(), "{what}");
        broken.repair("notes").await;
        assert_eq!(broken.verify().await, Some(true), "{what}");
        assert_eq!(broken.holds(), whole.holds(), "{what}");
    }
    // Everything lost.
    let mut empty = Replica { mirror: Default::default(), ..whole.clone() };
    assert_eq!(empty.verify().await, Some(false));
    empty.repair("notes").await;
    empty.repair("visits").await;
    assert_eq!(empty.holds(), whole.holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn integers_of_64_bits_and_all_texts_count_alike_on_both_sides() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let record = r#"{"id":"n","big":18446744073709551615,"small":-9223372036854775808,"odd":9007199254740993,"one":1.0,
                     "ﬀ":1,"😀":2,"t":"\u0000\u001f\"\\/\u007f\u2028é","e":{},"l":[],"b":[true,false,null]}"#;
    let body = format!(r#"{{"changes":{{"notes":[{record}]}}}}"#);
    ben.send(ben.request(reqwest::Method::POST, "/api/v1/sync/push").body(body)).await.ok();
    let mut replica = pulled(&ben).await;
    // Whole numbers come without a fraction.
    assert_eq!(replica.mirror[&key("notes", "n")]["one"], json!(1));
    assert_eq!(replica.verify().await, Some(true));
    replica.mirror.get_mut(&key("notes", "n")).unwrap()["odd"] = json!(9_007_199_254_740_992_u64);
    assert_eq!(replica.verify().await, Some(false));
    replica.repair("notes").await;
    assert_eq!(replica.mirror[&key("notes", "n")]["odd"], json!(9_007_199_254_740_993_u64));
    // The content's hash is the one that the record's address shows.
    let shown = ben.record("notes", "n").await.ok()["hash"].as_str().unwrap().to_owned();
    let number = backroom::domain::record::Hash::of(format!("n\n1\n{shown}").as_bytes());
    assert_eq!(verified(&ben, json!({})).await["tables"]["notes"]["hash"], number.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_view_counts() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    let (ben, dora, both) =
        (office.clerk("ben", "A").await, office.clerk("dora", "B").await, office.someone("cleo", Role::Store, &["A", "B"]).await);
    let service = office.someone("bot", Role::Service, &[]).await;
    fill(&boss, "visits", 20).await;
    ben.push_one("diaries", json!({ "id": "mine" })).await.applied("diaries", "mine");
    boss.push_one("payroll", json!({ "id": "p" })).await.applied("payroll", "p");
    let request = json!({ "cursor": ben.pull().await.cursor(), "tables": { "visits": null, "diaries": null, "notes": null },
                          "buckets": ["visits", "diaries"], "records": { "visits": (0..256).collect::<Vec<_>>() } });
    let before = verified(&ben, request.clone()).await;
    assert_eq!((&before["current"], &before["tables"]["visits"]["count"]), (&json!(true), &json!(20)));
    // Whatever others do with what is theirs changes nothing here, not even the place in history being behind.
    for n in 0..30 {
        let id = format!("hidden{n}");
        dora.push_one("visits", json!({ "id": id, "n": n })).await.applied("visits", &id);
        dora.push_one("diaries", json!({ "id": id, "n": n })).await.applied("diaries", &id);
        boss.push_one("payroll", json!({ "id": id })).await.applied("payroll", &id);
    }
    let after = verified(&ben, request).await;
    for part in ["current", "tables", "records", "has_more"] {
        assert_eq!(after[part], before[part], "{part}");
    }
    assert!(!after.to_string().contains("hidden"), "{after}");
    let counts = async |device: &Device| {
        let tables = verified(device, json!({})).await["tables"].clone();
        let count = |table: &str| tables[table]["count"].as_i64();
        (count("visits"), count("diaries"), count("payroll"))
    };
    assert_eq!(counts(&ben).await, (Some(20), Some(1), None));
    assert_eq!(counts(&dora).await, (Some(30), Some(30), None));
    assert_eq!(counts(&both).await, (Some(50), Some(0), None));
    assert_eq!(counts(&boss).await, (Some(50), Some(31), Some(31)));
    assert_eq!(counts(&service).await, (Some(50), Some(31), None));
    for device in [&ben, &dora, &both, &boss, &service] {
        assert_eq!(pulled(device).await.verify().await, Some(true), "{}", device.id);
    }
    // A record that leaves is counted where it goes.
    let mut till = pulled(&ben).await;
    boss.push_one("visits", json!({ "id": "visits3", "version": 1, "store_id": "B" })).await.applied("visits", "visits3");
    assert_eq!(till.verify().await, None);
    till.pull().await;
    assert_eq!((till.verify().await, counts(&ben).await.0, counts(&dora).await.0), (Some(true), Some(19), Some(31)));
    // A store that nobody wrote into yet.
    assert_eq!(pulled(&office.clerk("zoe", "Z").await).await.verify().await, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_tells_whether_a_difference_is_real() {
    let office = Appliance::with(RULES).await;
    let (root, ben) = (office.chief("root").await, office.clerk("ben", "A").await);
    fill(&root, "notes", 5).await;
    let current = async |device: &Device, request: Value| verified(device, request).await["current"].clone();
    let text = ben.pull().await.cursor();
    let good = Cursor::parse(&text).unwrap();
    assert_eq!(current(&ben, json!({})).await, Value::Null);
    assert_eq!(current(&ben, json!({ "cursor": text })).await, true);
    assert_eq!(current(&ben, json!({ "cursor": text, "tables": {} })).await, true);
    for strange in [
        Cursor { epoch: Epoch(good.epoch.0 ^ 1), ..good },
        Cursor { view: good.view + 1, ..good },
        Cursor { seq: good.seq + 1, ..good },
        Cursor { seq: good.seq - 1, ..good },
        Cursor { tables: 5, ..good },
        // In the middle of a reset.
        Cursor { start: Some(good.seq), ..good },
    ] {
        assert_eq!(current(&ben, json!({ "cursor": strange.text() })).await, false, "{strange:?}");
    }
    // A selection of tables covers just these, all of them any.
    let selected = ben.pull_with(json!({ "tables": ["visits", "notes"] })).await.cursor();
    for (cursor, tables, expected) in [
        (&selected, json!({ "notes": null, "visits": null }), true),
        (&selected, json!({ "notes": null }), false),
        (&selected, json!(null), false),
        (&text, json!({ "notes": null }), true),
    ] {
        assert_eq!(current(&ben, json!({ "cursor": cursor, "tables": tables })).await, expected, "{tables}");
    }
    // Behind in one table alone.
    fill(&root, "visits", 1).await;
    assert_eq!(current(&ben, json!({ "cursor": text })).await, false);
    assert_eq!(current(&ben, json!({ "cursor": text, "tables": { "visits": null } })).await, false);
    assert_eq!(current(&ben, json!({ "cursor": text, "tables": { "notes": null } })).await, true);
    // The answer says which place it is of: that of a pull at the same time.
    let answer = verified(&ben, json!({ "cursor": text })).await;
    let page = ben.pull().await.0;
    assert_eq!((&answer["cursor"], &answer["timestamp"]), (&page["cursor"], &page["timestamp"]));
    // A delete, and its purge: before it, the device is behind; long after it, too.
    let cursor = ben.pull().await.cursor();
    root.push_one("notes", json!({ "id": "notes1", "version": 1, "deleted": true })).await.applied("notes", "notes1");
    assert_eq!(current(&ben, json!({ "cursor": cursor })).await, false);
    office.clock.advance(400 * DAY);
    root.post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.ok();
    assert_eq!(current(&ben, json!({ "cursor": cursor })).await, false);
    let again = pulled(&ben).await;
    assert_eq!((again.verify().await, again.mirror.len()), (Some(true), 5));
    // Another store, other rules: another view.
    let cursor = ben.pull().await.cursor();
    office.role("ben", Role::Store, &["A", "B"]).await;
    office.becomes(async || (current(&ben, json!({ "cursor": cursor })).await == false).then_some(())).await;
    let cursor = ben.pull().await.cursor();
    assert_eq!(current(&ben, json!({ "cursor": cursor })).await, true);
    office.reload("[tables.notes]\n[tables.visits]\n").await;
    assert_eq!(current(&ben, json!({ "cursor": cursor })).await, false);
    assert_eq!(pulled(&ben).await.verify().await, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_verify_is_refused() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let many: Value = (0..1_001).map(|n| (format!("t{n}"), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    for odd in [
        json!([]),
        json!({ "tables": [] }),
        json!({ "tables": { "notes": { "count": 1 } } }),
        json!({ "tables": { "notes": { "count": -1, "hash": "0".repeat(32) } } }),
        json!({ "tables": { "notes": { "count": 1, "hash": "0".repeat(31) } } }),
        json!({ "tables": { "notes": { "count": 1, "hash": "x".repeat(32) } } }),
        json!({ "tables": many }),
        json!({ "records": many }),
        json!({ "buckets": vec!["notes"; 1_001] }),
        json!({ "buckets": { "notes": [1] } }),
        json!({ "records": { "notes": [256] } }),
        json!({ "records": { "notes": [-1] } }),
        json!({ "records": { "notes": ["1"] } }),
        json!({ "cursor": 1 }),
    ] {
        ben.post("/api/v1/sync/verify", odd).await.refused(400, "invalid_request");
    }
    ben.post("/api/v1/sync/verify", json!({ "device_id": "another" })).await.refused(403, "device_mismatch");
    // Absent and null are one.
    let nothing = json!({ "cursor": null, "tables": null, "buckets": null, "records": null, "device_id": null });
    let (plain, full) = (verified(&ben, json!({})).await, verified(&ben, nothing).await);
    assert_eq!(plain, full);
    assert!(plain.get("records").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_records_come_as_many_as_fit_and_one_always_does() {
    let office = Appliance::with(&format!("[limits]\npage_records = 40\n{RULES}")).await;
    let boss = office.boss("anna").await;
    fill(&boss, "notes", 1_000).await;
    let mut replica = Replica { limit: 40, ..Replica::new(boss.clone()) };
    replica.pull().await;
    let whole = replica.holds();
    replica.mirror.clear();
    let answers = replica.repair("notes").await;
    assert_eq!(replica.holds(), whole);
    assert!(answers >= 25, "{answers} answers for 1,000 records, 40 at a time");
    // Both tables' buckets in one request; a bucket that nothing falls into is given empty.
    fill(&boss, "visits", 2).await;
    let empty = (0..256).find(|no| *no != bucket("visits0") && *no != bucket("visits1")).unwrap();
    let asked = json!({ "tables": {}, "records": { "visits": [empty, empty, bucket("visits0")], "notes": [] } });
    let answer = verified(&boss, asked).await;
    let given = answer["records"].as_object().unwrap();
    assert_eq!((given.len(), &given["visits"][empty.to_string()]), (1, &json!([])));
    assert_eq!(given["visits"][bucket("visits0").to_string()][0], boss.record("visits", "visits0").await.ok()["record"]);
    assert_eq!((&answer["has_more"], answer["tables"].as_object().unwrap().len()), (&json!(false), 2));
    // Records of a megabyte each: the page is full by its bytes, and goes on with the next request.
    let large = office.clerk("ben", "L").await;
    for n in 0..12 {
        let id = format!("large{n}");
        large.push_one("visits", json!({ "id": id, "text": "x".repeat(1 << 20).split_off(64) })).await.applied("visits", &id);
    }
    let mut replica = Replica { tables: Some(vec!["visits".into()]), ..Replica::new(large) };
    let buckets: BTreeSet<usize> = (0..12).map(|n| bucket(&format!("large{n}"))).collect();
    assert_eq!((replica.repair("visits").await, buckets.len()), (2, 12));
    assert_eq!(replica.holds(), replica.truth().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_that_takes_too_long_gives_its_reader_back() {
    let office = Appliance::with(&format!("[server]\nreaders = 1\n{RULES}")).await;
    let boss = office.boss("anna").await;
    fill(&boss, "notes", 300).await;
    let device = office.app.store.accounts.now().device_by_token(&token::hash(&boss.token)).unwrap().clone();
    for body in ["{}", r#"{"tables":{},"records":{"notes":[1,2]}}"#] {
        let stopped = verify::within(&office.app, &device, body.into(), Duration::ZERO).await;
        assert!(matches!(stopped, Err(Error::Problem(Code::Unavailable, _))), "{body}");
        verify::within(&office.app, &device, body.into(), Duration::from_secs(600)).await.unwrap();
    }
    assert_eq!(boss.pull().await.ids().len(), 300);
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// People of two stores who push, and devices that pull and verify.
struct Crowd {
    office: Appliance,
    root: Device,
    boss: Device,
    clerks: Vec<Device>,
    replicas: Vec<Replica>,
}

async fn crowd() -> Crowd {
    let office = Appliance::with(RULES).await;
    let (root, boss) = (office.chief("root").await, office.boss("anna").await);
    let clerks = vec![office.clerk("c0", "A").await, office.clerk("c1", "A").await, office.clerk("c2", "B").await];
    let (ben, both) = (office.enrolled("c0", "2").await, office.someone("cleo", Role::Store, &["A", "B"]).await);
    let mut replicas = vec![Replica::new(boss.clone()), Replica::new(ben.clone()), Replica::new(ben), Replica::new(both)];
    (replicas[0].limit, replicas[2].limit) = (7, 3);
    replicas[2].tables = Some(vec!["visits".into(), "notes".into()]);
    Crowd { office, root, boss, clerks, replicas }
}

/// Somebody writes or deletes something.
async fn edit(device: &Device, dice: &mut Dice) {
    let (table, id) = (["notes", "visits", "diaries"][dice.roll(3)], format!("r{}", dice.roll(60)));
    let record = match dice.roll(4) {
        0 => json!({ "id": id, "deleted": true }),
        _ => json!({ "id": id, "n": dice.roll(1_000), "deep": { "n": [dice.roll(10), 0.5] } }),
    };
    device.push_one(table, record).await;
}

/// The manager moves a record to one of the stores.
async fn move_one(boss: &Device, dice: &mut Dice) {
    let id = format!("r{}", dice.roll(60));
    let now = boss.record("visits", &id).await;
    if now.status.is_success() {
        let moved = json!({ "id": id, "version": now.body["record"]["version"], "store_id": (["A", "B"][dice.roll(2)]) });
        boss.push_one("visits", moved).await;
    }
}

impl Crowd {
    /// History, tombstones and evictions go.
    async fn cleanup(&self) {
        self.office.clock.advance(1_000_000);
        self.root.post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.ok();
    }

    /// All pull, and hold what they should; one record less is seen at once.
    async fn ends_well(&mut self) {
        for replica in &mut self.replicas {
            replica.pull().await;
            assert_eq!(replica.verify().await, Some(true), "{}", replica.device.id);
            assert_eq!(replica.holds(), replica.truth().await);
            let lost = replica.mirror.pop_first().unwrap();
            assert_eq!(replica.verify().await, Some(false), "{lost:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_a_device_is_current_it_agrees() {
    let (mut crowd, mut dice) = (crowd().await, Dice(7));
    let (mut agreed, mut behind) = (0, 0);
    for _ in 0..3_000 {
        match dice.roll(12) {
            0..6 => edit(&crowd.clerks[dice.roll(3)], &mut dice).await,
            6 => move_one(&crowd.boss, &mut dice).await,
            7 if dice.roll(10) == 0 => crowd.cleanup().await,
            7 | 8 => drop(crowd.replicas[dice.roll(4)].page().await),
            9 => {
                let replica = &mut crowd.replicas[dice.roll(4)];
                replica.pull().await;
                assert_eq!(replica.verify().await, Some(true), "{} has just pulled", replica.device.id);
            }
            _ => match crowd.replicas[dice.roll(4)].verify().await {
                Some(same) => {
                    assert!(same);
                    agreed += 1;
                }
                None => behind += 1,
            },
        }
    }
    assert!(agreed > 10 && behind > 100, "{agreed} times current, {behind} times behind");
    crowd.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_agrees_also_while_others_push_delete_and_move_at_the_same_time() {
    let mut crowd = crowd().await;
    let mut pushing = Vec::new();
    for (n, device) in crowd.clerks.iter().cloned().enumerate() {
        pushing.push(tokio::spawn(async move {
            let mut dice = Dice(n as u64);
            for _ in 0..400 {
                edit(&device, &mut dice).await;
            }
        }));
    }
    let boss = crowd.boss.clone();
    pushing.push(tokio::spawn(async move {
        let mut dice = Dice(99);
        for _ in 0..200 {
            move_one(&boss, &mut dice).await;
        }
    }));
    let (mut dice, mut rounds) = (Dice(7), 0);
    while !pushing.iter().all(|task| task.is_finished()) {
        rounds += 1;
        let replica = &mut crowd.replicas[dice.roll(4)];
        replica.pull().await;
        assert_ne!(replica.verify().await, Some(false), "{} differs after {rounds} rounds", replica.device.id);
        if rounds % 20 == 0 {
            crowd.cleanup().await;
        }
    }
    for task in pushing {
        task.await.unwrap();
    }
    crowd.ends_well().await;
}

async fn delta(device: &Device, table: &str, id: &str, version: impl Into<Value>, fields: Value) -> Value {
    let request = json!({ "table": table, "id": id, "version": version.into(), "fields": fields });
    device.post("/api/v1/sync/delta", request).await.ok()
}

/// Field, client's value, server's value, conflict.
fn lines(answer: &Value) -> Vec<String> {
    let deltas = answer["field_deltas"].as_array().unwrap();
    assert_eq!(answer["has_changes"], answer["deleted"] == true || !deltas.is_empty());
    let line = |one: &Value| {
        let conflict = if one["has_conflict"] == true { " !" } else { "" };
        format!("{} {} {}{conflict}", one["field"].as_str().unwrap(), one["client_value"], one["server_value"])
    };
    deltas.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_says_what_differs_and_what_both_sides_changed() {
    let office = Appliance::with(RULES).await;
    let (root, ben) = (office.chief("root").await, office.clerk("ben", "A").await);
    // Version 1, 2, 3.
    let first = json!({ "id": "n", "title": "one", "price": 1, "old": true, "address": { "city": "Linz", "zip": 4020 } });
    root.push_one("notes", first).await.applied("notes", "n");
    let second =
        json!({ "id": "n", "version": 1, "title": "two", "price": 1, "address": { "city": "Linz", "zip": 4020 }, "a.b": 1, "*": 1 });
    root.push_one("notes", second.clone()).await.applied("notes", "n");
    let mut third = second;
    (third["version"], third["address"]["city"], third["😀"], third["ﬀ"]) = (json!(2), json!("Graz"), json!("x"), json!("y"));
    root.push_one("notes", third).await.applied("notes", "n");

    let (linz, graz) = (r#"{"city":"Linz","zip":4020}"#, r#"{"city":"Graz","zip":4020}"#);
    let same = json!({ "title": "two", "price": 1.0, "address": { "zip": 4020, "city": "Graz" }, "a.b": 1, "*": 1, "😀": "x", "ﬀ": "y" });
    let new_names = ["\\* null 1", "a\\.b null 1"];
    let odd_names = ["😀 null \"x\"", "ﬀ null \"y\""];
    let list = |parts: &[&[&str]]| parts.concat().iter().map(ToString::to_string).collect::<Vec<String>>();
    for (version, fields, expected) in [
        (json!(3), json!({}), vec![]),
        (json!(3), same.clone(), vec![]),
        (json!(1), same.clone(), list(&[&["old true null"]])),
        (json!(3), json!({ "price": 2 }), list(&[&["price 2 1"]])),
        (json!(3), json!({ "price": null, "gone": null }), list(&[&["price null 1"]])),
        // Behind: what the server changed alone, what both did, nested values as a whole.
        (json!(2), json!({}), list(&[&[&format!("address {linz} {graz}")], &odd_names])),
        (
            json!(2),
            json!({ "address": { "city": "Wels", "zip": 4020 } }),
            list(&[&[&format!(r#"address {{"city":"Wels","zip":4020}} {graz} !"#)], &odd_names]),
        ),
        (json!(2), json!({ "address": { "city": "Linz", "zip": 4020 } }), list(&[&[&format!("address {linz} {graz}")], &odd_names])),
        (json!(2), json!({ "address": null, "price": 9 }), list(&[&[&format!("address null {graz} !"), "price 9 1"], &odd_names])),
        (
            json!(1),
            json!({ "title": "mine", "old": false }),
            list(&[&new_names, &[&format!("address {linz} {graz}"), "old false null !", "title \"mine\" \"two\" !"], &odd_names]),
        ),
        (
            json!(1),
            json!({ "old": null, "a.b": 2, "title": "two" }),
            list(&[&["\\* null 1", "a\\.b 2 1 !", &format!("address {linz} {graz}")], &odd_names]),
        ),
        // From nothing.
        (json!(0), same.clone(), vec![]),
        (Value::Null, json!({ "title": "two", "price": 2, "mine": 1 }), {
            list(&[&new_names, &[&format!("address null {graz}"), "mine 1 null", "price 2 1 !"], &odd_names])
        }),
        // A version that never was.
        (json!(9), json!({ "title": "two", "price": 2, "mine": 1, "none": null }), {
            list(&[&new_names, &[&format!("address null {graz}"), "mine 1 null !", "price 2 1 !"], &odd_names])
        }),
        (json!(9), same, vec![]),
        // What belongs to the protocol is no field.
        (json!(3), json!({ "id": "other", "version": 7, "updated_at": 1, "deleted": true }), vec![]),
    ] {
        let answer = delta(&ben, "notes", "n", version.clone(), fields.clone()).await;
        assert_eq!(lines(&answer), expected, "{version} {fields}");
        assert_eq!((&answer["version"], &answer["deleted"]), (&json!(3), &json!(false)));
    }

    // Version and fields may be left out; a browser may ask, too.
    let bare = ben.post("/api/v1/sync/delta", json!({ "table": "notes", "id": "n" })).await.ok();
    assert_eq!(bare["field_deltas"].as_array().unwrap().len(), 7, "{bare}");
    office.user("eve", Role::Manager, &[]).await;
    let cookie = office.sign_in("eve").await;
    let browser = Device::stranger(office.address);
    let request = browser.request(reqwest::Method::POST, "/api/v1/sync/delta").header("cookie", cookie);
    assert_eq!(browser.send(request.body(r#"{"table":"notes","id":"n"}"#)).await.ok(), bare);

    // Deleted: there is nothing left to agree with.
    root.push_one("notes", json!({ "id": "n", "version": 3, "deleted": true })).await.applied("notes", "n");
    let gone = delta(&ben, "notes", "n", 3, json!({ "price": 2, "title": "two" })).await;
    assert_eq!((&gone["version"], &gone["deleted"], &gone["has_changes"]), (&json!(4), &json!(true), &json!(true)));
    let all = [r#"\* 1 null"#, r#"a\.b 1 null"#, &format!("address {graz} null"), "price 2 null !", "title \"two\" null"];
    assert_eq!(lines(&gone), list(&[&all, &["😀 \"x\" null", "ﬀ \"y\" null"]]));
    assert_eq!(lines(&delta(&ben, "notes", "n", 4, json!({ "price": null })).await), Vec::<String>::new());
    assert_eq!(lines(&delta(&ben, "notes", "n", 4, json!({ "price": 2 })).await), ["price 2 null"]);
    // Revived: the tombstone had nothing.
    root.push_one("notes", json!({ "id": "n", "version": 4, "price": 5 })).await.applied("notes", "n");
    assert_eq!(lines(&delta(&ben, "notes", "n", 4, json!({ "price": 2 })).await), ["price 2 5 !"]);
    assert_eq!(lines(&delta(&ben, "notes", "n", 4, json!({})).await), ["price null 5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_gone_or_hidden_is_unknown() {
    let office = Appliance::with(RULES).await;
    let (root, ben, dora) = (office.chief("root").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    root.push_one("visits", json!({ "id": "v", "store_id": "A", "n": 1, "m": 1 })).await.applied("visits", "v");
    root.push_one("visits", json!({ "id": "v", "version": 1, "store_id": "B", "n": 2, "m": 1, "sesame": 1 })).await.applied("visits", "v");
    let hidden = json!({ "table": "visits", "id": "v", "version": 1, "fields": {} });
    let answer = ben.post("/api/v1/sync/delta", hidden.clone()).await;
    answer.refused(404, "not_found");
    let mut absent = hidden;
    absent["id"] = json!("absent");
    assert_eq!(without_request_id(&answer.text), without_request_id(&ben.post("/api/v1/sync/delta", absent).await.text));
    // Nor does the other store learn what it was before.
    assert_eq!(
        lines(&delta(&dora, "visits", "v", 1, json!({ "n": 1 })).await),
        ["m null 1", "n 1 2 !", "sesame null 1", "store_id null \"B\""]
    );
    root.push_one("visits", json!({ "id": "v", "version": 2, "store_id": "A", "n": 3, "m": 1 })).await.applied("visits", "v");
    // Back again: version 1 is known, version 2 was never seen here.
    assert_eq!(lines(&delta(&ben, "visits", "v", 1, json!({ "n": 2 })).await), ["n 2 3 !"]);
    assert_eq!(lines(&delta(&ben, "visits", "v", 1, json!({})).await), ["n 1 3"]);
    let unknown = ["m null 1", "n 2 3 !", "store_id null \"A\""];
    assert_eq!(lines(&delta(&ben, "visits", "v", 2, json!({ "n": 2 })).await), unknown);
    assert_eq!(lines(&delta(&root, "visits", "v", 2, json!({ "n": 2 })).await), ["n 2 3", "sesame 1 null", "store_id \"B\" \"A\""]);
    // Purged: the same for those who saw it.
    office.clock.advance(DAY);
    root.post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.ok();
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM changes").await, 1);
    for version in [1, 2] {
        assert_eq!(lines(&delta(&root, "visits", "v", version, json!({ "n": 2 })).await), unknown);
    }
    assert_eq!(lines(&delta(&root, "visits", "v", 3, json!({ "n": 2 })).await), ["n 2 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_delta_are_exact_and_what_is_no_record_is_refused() {
    let office = Appliance::with(&format!("[limits]\nrecord_bytes = 2048\n{RULES}")).await;
    let ben = office.clerk("ben", "A").await;
    ben.push_one("notes", json!({ "id": "n", "big": u64::MAX, "l": [i64::MIN, 9_007_199_254_740_993_u64], "f": 0.1 }))
        .await
        .applied("notes", "n");
    let post = |body: String| ben.send(ben.request(reqwest::Method::POST, "/api/v1/sync/delta").body(body));
    let answer =
        post(r#"{"table":"notes","id":"n","version":1,"fields":{"f":1e2,"l":[ 9007199254740995 ],"big":18446744073709551614}}"#.into())
            .await;
    let expected = concat!(
        r#"{"success":true,"has_changes":true,"version":1,"deleted":false,"field_deltas":["#,
        r#"{"field":"big","client_value":18446744073709551614,"server_value":18446744073709551615,"has_conflict":false},"#,
        r#"{"field":"f","client_value":100,"server_value":0.1,"has_conflict":false},"#,
        r#"{"field":"l","client_value":[9007199254740995],"server_value":[-9223372036854775808,9007199254740993],"has_conflict":false}]}"#
    );
    assert_eq!(answer.text, expected);
    let with = |rest: &str| format!(r#"{{"table":"notes","id":"n",{rest}}}"#);
    let (deep, long) =
        (format!(r#""fields":{{"a":{}1{}}}"#, "[".repeat(64), "]".repeat(64)), format!(r#""fields":{{"a":"{}"}}"#, "x".repeat(2_048)));
    let spaces = format!(r#""fields":{{"a":[{}]}}"#, " ".repeat(20_000));
    for (body, status, code) in [
        ("[]".to_owned(), 400, "invalid_request"),
        (r#"{"table":"notes"}"#.to_owned(), 400, "invalid_request"),
        (r#"{"id":"n"}"#.to_owned(), 400, "invalid_request"),
        (r#"{"table":1,"id":"n"}"#.to_owned(), 400, "invalid_request"),
        (r#"{"table":"nowhere","id":"n"}"#.to_owned(), 422, "unknown_table"),
        (r#"{"table":"No Name","id":"n"}"#.to_owned(), 422, "unknown_table"),
        (r#"{"table":"payroll","id":"n"}"#.to_owned(), 403, "forbidden"),
        (r#"{"table":"notes","id":"a b"}"#.to_owned(), 422, "invalid_record"),
        (with(r#""version":-1"#), 422, "invalid_record"),
        (with(r#""version":1.5"#), 422, "invalid_record"),
        (with(r#""version":"1""#), 422, "invalid_record"),
        (with(r#""version":18446744073709551615"#), 422, "invalid_record"),
        (with(r#""fields":[]"#), 422, "invalid_record"),
        (with(r#""fields":{"a":1,"a":2}"#), 422, "invalid_record"),
        (with(r#""fields":{"a":1e999}"#), 422, "invalid_record"),
        (with(&deep), 422, "invalid_record"),
        (with(&long), 413, "payload_too_large"),
        (with(&spaces), 413, "payload_too_large"),
        (r#"{"table":"notes","id":"m"}"#.to_owned(), 404, "not_found"),
    ] {
        post(body).await.refused(status, code);
    }
}
