//! What goes when, what stays, and that nothing that is gone is ever given out again.

use backroom::domain::clock::DAY;
use backroom::store::Clock;
use serde_json::{Value, json};

use crate::support::replica::Replica;
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.notes]
rule = "server_wins"
[tables.cases]
rule = "manual"
[tables.visits]
rule = "latest_wins"
scope = "store"
"#;

async fn cleanup(root: &Device, days: i64) -> Value {
    root.post("/api/v1/sync/cleanup", json!({ "days_old": days })).await.ok()["removed"].clone()
}

/// Pulls everything and tells the server so.
async fn passes(device: &Device) {
    let cursor = device.pull().await.cursor();
    device.pull_with(json!({ "cursor": cursor })).await;
}

async fn versions(device: &Device, id: &str) -> Vec<i64> {
    let history = device.get(&format!("/api/v1/records/notes/{id}/history")).await.ok();
    history["history"].as_array().unwrap().iter().map(|entry| entry["version"].as_i64().unwrap()).collect()
}

struct Office {
    office: Appliance,
    root: Device,
    ben: Device,
}

async fn office() -> Office {
    let office = Appliance::with(RULES).await;
    let (root, ben) = (office.chief("root").await, office.clerk("ben", "A").await);
    Office { office, root, ben }
}

impl Office {
    fn days(&self, days: i64) {
        self.office.clock.advance(days * DAY);
    }

    async fn count(&self, sql: &'static str) -> i64 {
        self.office.ask(sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_cleans_up_and_it_is_written_down() {
    let o = office().await;
    let boss = o.office.boss("anna").await;
    for device in [&boss, &o.ben] {
        device.post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.refused(403, "forbidden");
    }
    Device::stranger(o.office.address).post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.refused(401, "unauthorized");
    for odd in [json!({}), json!({ "days_old": -1 }), json!({ "days_old": "1" }), json!({ "days_old": 40_000 })] {
        o.root.post("/api/v1/sync/cleanup", odd).await.refused(400, "invalid_request");
    }
    cleanup(&o.root, 7).await;
    let entry: String = o
        .office
        .ask("SELECT actor || ' ' || action || ' ' || json_extract(detail, '$.days_old') FROM audit ORDER BY no DESC LIMIT 1")
        .await;
    assert_eq!(entry, "root cleanup 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_goes_by_when_it_was_superseded_and_the_present_stays() {
    let o = office().await;
    o.root.push_one("notes", json!({ "id": "n", "v": 1 })).await.applied("notes", "n");
    o.root.push_one("notes", json!({ "id": "still", "v": 1 })).await.applied("notes", "still");
    o.days(200);
    // Version 1 was the present one until now, whatever its age.
    o.root.push_one("notes", json!({ "id": "n", "version": 1, "v": 2 })).await.applied("notes", "n");
    assert_eq!(cleanup(&o.root, 90).await["history"], 0);
    assert_eq!(versions(&o.root, "n").await, [2, 1]);
    o.days(60);
    o.root.push_one("notes", json!({ "id": "n", "version": 2, "v": 3 })).await.applied("notes", "n");
    o.days(31);
    assert_eq!(cleanup(&o.root, 90).await["history"], 1);
    assert_eq!(versions(&o.root, "n").await, [3, 2]);
    assert_eq!(cleanup(&o.root, 90).await["history"], 0);
    assert_eq!(cleanup(&o.root, 0).await["history"], 1);
    assert_eq!(versions(&o.root, "n").await, [3]);
    assert_eq!(o.root.record("notes", "n").await.ok()["record"]["v"], 3);
    assert_eq!(o.root.record("notes", "still").await.ok()["record"]["v"], 1);
    // A base that is gone counts as unknown: never silently applied.
    let stale = o.ben.push_one("notes", json!({ "id": "n", "version": 1, "v": 9 })).await;
    assert_eq!(stale.conflict("n")["winner"], "server");
    let delete = o.ben.push_one("notes", json!({ "id": "n", "version": 1, "deleted": true })).await;
    assert_eq!((&delete.conflict("n")["winner"], &delete.conflict("n")["reason"]), (&json!("none"), &json!("gap")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_waits_for_every_active_device() {
    let o = office().await;
    o.root.push_one("notes", json!({ "id": "n" })).await.applied("notes", "n");
    let mut till = Replica::new(o.ben.clone());
    till.pull().await;
    till.page().await;
    o.root.push_one("notes", json!({ "id": "n", "version": 1, "deleted": true })).await.applied("notes", "n");
    passes(&o.root).await;
    o.days(30);
    // Young for the asked days; then old enough, but the till has not passed it.
    assert_eq!(cleanup(&o.root, 31).await["tombstones"], 0);
    assert_eq!(cleanup(&o.root, 29).await["tombstones"], 0);
    // It is given the delete, which does not yet say that it has it.
    till.page().await;
    assert_eq!(cleanup(&o.root, 29).await["tombstones"], 0);
    till.page().await;
    assert_eq!(cleanup(&o.root, 29).await["tombstones"], 1);
    // It had passed the floor: no reset.
    till.pull().await;
    assert_eq!(till.resets, 1);
    o.root.record("notes", "n").await.refused(404, "not_found");
    assert_eq!(o.root.get("/api/v1/sync/status").await.ok()["counts"]["tombstones"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_or_archived_device_holds_nothing_back_and_nothing_waits_longer_than_the_last_day() {
    for way in ["revoked", "archived", "last day"] {
        let o = office().await;
        o.root.push_one("notes", json!({ "id": "n" })).await.applied("notes", "n");
        passes(&o.ben).await;
        o.root.push_one("notes", json!({ "id": "n", "version": 1, "deleted": true })).await.applied("notes", "n");
        passes(&o.root).await;
        match way {
            "revoked" => {
                o.days(1);
                assert_eq!(cleanup(&o.root, 0).await["tombstones"], 0);
                o.root.call(reqwest::Method::DELETE, "/api/v1/sync/devices/ben-1", None).await.ok();
            }
            "archived" => o.days(91),
            _ => {
                // Seen again and again, by pushes alone: it is active, and never pulls.
                for _ in 0..5 {
                    o.days(72);
                    o.ben.push_one("visits", json!({ "id": "v" })).await;
                    assert_eq!(cleanup(&o.root, 0).await["tombstones"], 0);
                }
                o.days(6);
            }
        }
        assert_eq!(cleanup(&o.root, 0).await["tombstones"], 1, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_purged_comes_back() {
    let o = office().await;
    for id in ["a", "b"] {
        o.root.push_one("notes", json!({ "id": id })).await.applied("notes", id);
        o.root.push_one("notes", json!({ "id": id, "version": 1, "deleted": true })).await.applied("notes", id);
    }
    passes(&o.root).await;
    o.days(1);
    assert_eq!(cleanup(&o.root, 0).await["tombstones"], 2);
    for (record, code) in [
        (json!({ "id": "a" }), "gone"),
        (json!({ "id": "a", "version": 1 }), "gone"),
        (json!({ "id": "b", "version": 2, "x": 1 }), "gone"),
        (json!({ "id": "never", "version": 2 }), "gone"),
    ] {
        let id = record["id"].as_str().unwrap().to_owned();
        assert_eq!(o.ben.push_one("notes", record).await.rejected(&id), code);
    }
    let create = json!({ "op_id": "c", "table": "notes", "id": "a", "op": "create", "data": {} });
    assert_eq!(o.ben.operate(create).await.rejected("a"), "gone");
    let delete = o.ben.push_one("notes", json!({ "id": "a", "version": 1, "deleted": true })).await;
    assert_eq!((&delete.applied("notes", "a")["status"], &delete.applied("notes", "a")["version"]), (&json!("noop"), &Value::Null));
    // The same id in another table is another record; and graves are remembered over a restart.
    o.ben.push_one("visits", json!({ "id": "a" })).await.applied("visits", "a");
    let mut ben = o.ben.clone();
    let office = o.office.restart(RULES).await;
    ben.address = office.address;
    assert_eq!(ben.push_one("notes", json!({ "id": "b" })).await.rejected("b"), "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_marks_go_like_tombstones_and_raise_the_floor_too() {
    let o = office().await;
    o.root.push_one("visits", json!({ "id": "v", "store_id": "A" })).await.applied("visits", "v");
    let mut till = Replica::new(o.ben.clone());
    till.pull().await;
    till.page().await;
    o.root.push_one("visits", json!({ "id": "v", "version": 1, "store_id": "B" })).await.applied("visits", "v");
    passes(&o.root).await;
    o.days(1);
    assert_eq!(cleanup(&o.root, 0).await["evictions"], 0);
    o.days(91);
    assert_eq!(cleanup(&o.root, 0).await["evictions"], 1);
    till.pull().await;
    assert_eq!((till.resets, till.mirror.len()), (2, 0));
    assert_eq!(till.holds(), till.truth().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_stay_until_their_device_has_synced_after_them() {
    let o = office().await;
    passes(&o.ben).await;
    let noop = json!({ "op_id": "n", "table": "notes", "id": "absent", "op": "delete" });
    o.ben.operate(noop.clone()).await.applied("notes", "absent");
    o.root.push_one("notes", json!({ "id": "absent" })).await.applied("notes", "absent");
    o.days(100);
    for days in [90, 0] {
        assert_eq!(cleanup(&o.root, days).await["receipts"], 0);
    }
    // A push is no sync: its answer may be lost like the first.
    assert_eq!(o.ben.operate(noop).await.applied("notes", "absent")["status"], "noop");
    assert_eq!(o.root.record("notes", "absent").await.ok()["record"].get("deleted"), None);
    assert_eq!(cleanup(&o.root, 0).await["receipts"], 0);
    passes(&o.ben).await;
    assert_eq!(cleanup(&o.root, 101).await["receipts"], 0);
    assert_eq!(cleanup(&o.root, 99).await["receipts"], 1);
    // A revoked device retries nothing.
    o.ben.operate(json!({ "op_id": "m", "table": "notes", "id": "other", "op": "delete" })).await;
    o.root.call(reqwest::Method::DELETE, "/api/v1/sync/devices/ben-1", None).await.ok();
    o.days(1);
    assert_eq!(cleanup(&o.root, 0).await["receipts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_before_the_first_change_to_a_device_that_never_pulled_is_in_nobodys_way() {
    let o = office().await;
    o.ben.push_one("notes", json!({ "id": "absent", "deleted": true })).await.applied("notes", "absent");
    o.days(1);
    assert_eq!(cleanup(&o.root, 0).await["receipts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_conflicts_go_and_open_ones_stay() {
    let o = office().await;
    for table in ["notes", "cases"] {
        o.root.push_one(table, json!({ "id": "r", "v": 0 })).await;
        o.root.push_one(table, json!({ "id": "r", "version": 1, "v": 1 })).await;
        o.ben.push_one(table, json!({ "id": "r", "version": 1, "v": 2 })).await.conflict("r");
    }
    o.days(30);
    assert_eq!(cleanup(&o.root, 31).await["conflicts"], 0);
    assert_eq!(cleanup(&o.root, 29).await["conflicts"], 0, "its device may still retry");
    passes(&o.ben).await;
    assert_eq!(cleanup(&o.root, 29).await["conflicts"], 1);
    let left: String = o.office.ask("SELECT group_concat(rule || ' ' || status) FROM conflicts").await;
    assert_eq!(left, "manual open");
    o.days(1_000);
    assert_eq!(cleanup(&o.root, 0).await["conflicts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_changes_go_by_age() {
    let o = office().await;
    o.ben.push_one("nowhere", json!({ "id": "old" })).await.rejected("old");
    o.days(50);
    o.ben.push_one("nowhere", json!({ "id": "new" })).await.rejected("new");
    o.days(50);
    assert_eq!(cleanup(&o.root, 90).await["rejections"], 1);
    let kept = o.ben.get("/api/v1/sync/devices/ben-1/rejected").await.ok();
    assert_eq!(kept["rejected"].as_array().unwrap().iter().map(|r| r["record_id"].clone()).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_up_while_pushes_go_on_loses_none_and_takes_all_that_is_old() {
    let o = office().await;
    let ids: Vec<String> = (0..3_000).map(|n| format!("n{n}")).collect();
    for chunk in ids.chunks(1_000) {
        for record in [|id: &String| json!({ "id": id }), |id: &String| json!({ "id": id, "version": 1, "deleted": true })] {
            let pushed = o.root.push(json!({ "changes": { "notes": chunk.iter().map(record).collect::<Vec<_>>() } })).await.0;
            assert_eq!(pushed["applied"]["notes"].as_array().unwrap().len(), 1_000);
        }
    }
    passes(&o.root).await;
    o.days(1);
    let pusher = o.ben.clone();
    let pushing = tokio::spawn(async move {
        for n in 0..200 {
            let id = format!("v{n}");
            pusher.push_one("visits", json!({ "id": id, "n": n })).await.applied("visits", &id);
        }
    });
    let removed = cleanup(&o.root, 0).await;
    pushing.await.unwrap();
    assert_eq!((&removed["tombstones"], &removed["history"]), (&json!(3_000), &json!(3_000)));
    assert_eq!(o.count("SELECT count(*) FROM graves").await, 3_000);
    assert_eq!(o.count("SELECT count(*) FROM changes").await, 200);
    assert_eq!(o.count("SELECT count(*) FROM heads").await, 200);
    let counts = o.root.get("/api/v1/sync/status").await.ok()["counts"].clone();
    assert_eq!((&counts["records"], &counts["tombstones"]), (&json!(200), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_seq_and_no_time_is_given_out_twice_though_the_newest_change_was_purged() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::default();
    let office = Appliance::open(directory.path().to_owned(), RULES, clock.clone()).await;
    let (root, boss) = (office.chief("root").await, office.boss("anna").await);
    boss.push_one("notes", json!({ "id": "stays" })).await.applied("notes", "stays");
    boss.push_one("notes", json!({ "id": "goes" })).await.applied("notes", "goes");
    let last = boss.push_one("notes", json!({ "id": "goes", "version": 1, "deleted": true })).await.0;
    let (mut one, mut echo) = (Replica::new(boss.clone()), boss.pull().await.0["timestamp"].clone());
    one.pull().await;
    for device in [&root, &boss] {
        passes(device).await;
    }
    office.clock.advance(1_000);
    assert_eq!(cleanup(&root, 0).await["tombstones"], 1);
    let head: i64 = office.ask("SELECT max(seq) FROM changes").await;
    office.stop().await;
    // And the clock went back meanwhile.
    clock.advance(-3_600_000_000);
    let office = Appliance::open(directory.path().to_owned(), RULES, clock).await;
    let boss = Device { address: office.address, ..boss };
    one.device = boss.clone();
    let next = boss.push_one("notes", json!({ "id": "new" })).await.0;
    let newest: i64 = office.ask("SELECT max(seq) FROM changes").await;
    assert_eq!((head, newest), (1, 4));
    assert!(next["timestamp"].as_str() > last["timestamp"].as_str(), "{} after {}", next["timestamp"], last["timestamp"]);
    // Devices that were there before get what is new, by cursor and by time.
    one.pull().await;
    assert_eq!((one.mirror.len(), one.resets), (2, 1));
    let page = boss.pull_with(json!({ "last_sync_timestamp": echo })).await;
    assert_eq!(page.ids(), ["notes/new"]);
    echo = page.0["timestamp"].clone();
    assert!(boss.pull_with(json!({ "last_sync_timestamp": echo })).await.ids().is_empty());
}
