//! Pulls: pages, resets, selections, timestamps; a model of a device ends equal to the server after each.

use std::collections::{BTreeMap, BTreeSet};

use backroom::domain::clock::DAY;
use backroom::store::Clock;
use serde_json::{Value, json};

use crate::support::replica::{Key, Replica};
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.notes]
rule = "latest_wins"
[tables.plans]
rule = "latest_wins"
[tables.visits]
rule = "latest_wins"
scope = "store"
"#;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

async fn fill(device: &Device, table: &str, ids: std::ops::Range<usize>) {
    let records: Vec<Value> = ids.map(|n| json!({ "id": format!("{table}{n}"), "n": n, "store_id": "A" })).collect();
    let pushed = device.push(json!({ "changes": { table: records } })).await.0;
    assert_eq!(pushed["rejected"], json!([]), "{pushed}");
}

/// An appliance on a directory that outlives it.
async fn kept(directory: &std::path::Path) -> Appliance {
    Appliance::open(directory.to_owned(), RULES, Clock::default()).await
}

/// Changes the epoch as a restore would, while the appliance is stopped.
async fn restored(office: Appliance) -> Appliance {
    let (directory, clock) = (office.directory.clone(), office.clock.clone());
    office.stop().await;
    let db = rusqlite::Connection::open(directory.join(backroom::server::DATABASE)).unwrap();
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'", []).unwrap();
    db.execute("UPDATE meta SET value = ?1 WHERE key = 'epoch_began'", [clock.now()]).unwrap();
    drop(db);
    Appliance::open(directory, RULES, clock).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_has_what_was_answered_before_it_also_where_the_record_goes_on_meanwhile() {
    let office = Appliance::with(RULES).await;
    let mut workers = Vec::new();
    for worker in 0..4 {
        let user = format!("m{worker}");
        let (writer, mut reader) = (office.manager(&user).await, office.device(&user, "reader").await);
        workers.push(tokio::spawn(async move {
            reader.sync().await;
            for round in 0..300 {
                let id = format!("n{}", round % 3);
                let pushed =
                    writer.operate(json!({ "table": "notes", "id": id, "op": "create", "data": { "by": worker, "n": round } })).await.0;
                let applied = pushed["applied"]["notes"][0]["version"].as_i64();
                let version = applied.or(pushed["conflicts"][0]["version"].as_i64()).unwrap_or_else(|| panic!("{pushed}"));
                let page = reader.sync().await;
                let found = page.records("notes").into_iter().find(|record| record["id"] == id.as_str());
                let found = found.unwrap_or_else(|| panic!("{id} {version} is missing in {}", page.0));
                assert!(found["version"].as_i64().unwrap() >= version, "{id} {version}: {found}");
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_one_while_four_devices_push_end_equal_to_the_server() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    fill(&boss, "visits", 0..30).await;
    let mut pushing = Vec::new();
    for n in 0..4 {
        let device = office.clerk(&format!("c{n}"), if n < 3 { "A" } else { "B" }).await;
        pushing.push(tokio::spawn(async move {
            let mut dice = Dice(n);
            for round in 0..40 {
                let id = format!("visits{}", dice.roll(40));
                let scope = if n < 3 { "A" } else { "B" };
                let record = match dice.roll(5) {
                    0 => json!({ "id": id, "deleted": true }),
                    _ => json!({ "id": id, "by": n, "round": round, "store_id": scope }),
                };
                device.push(json!({ "changes": { "visits": [record], "notes": [{ "id": format!("n{n}-{round}"), "x": 1 }] } })).await;
            }
        }));
    }
    // And the manager moves records between the stores meanwhile.
    let mover = boss.clone();
    pushing.push(tokio::spawn(async move {
        let mut dice = Dice(99);
        for _ in 0..40 {
            let id = format!("visits{}", dice.roll(40));
            let now = mover.record("visits", &id).await;
            if now.status.is_success() {
                let version = now.body["record"]["version"].clone();
                mover.push_one("visits", json!({ "id": id, "version": version, "store_id": (["A", "B"][dice.roll(2)]) })).await;
            }
        }
    }));
    let reader = office.clerk("reader", "A").await;
    let mut readers = [Replica::new(reader.clone()), Replica::new(boss.clone()), Replica::new(reader)];
    readers[2].limit = 3;
    readers[0].limit = 1;
    readers[1].limit = 1;
    while !pushing.iter().all(|task| task.is_finished()) {
        for replica in &mut readers {
            replica.page().await;
        }
    }
    for task in pushing {
        task.await.unwrap();
    }
    for replica in &mut readers {
        replica.pull().await;
        assert_eq!(replica.holds(), replica.truth().await);
        assert_eq!(replica.resets, 1);
    }
    // The truth itself: what each record's address says.
    for ((table, id), record) in &readers[1].mirror {
        assert_eq!(&boss.record(table, id).await.ok()["record"], record);
    }
    assert!(readers[1].mirror.len() > 160);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_in_order_never_repeats_and_says_whether_there_is_more() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    for n in 0..10 {
        fill(&boss, ["notes", "plans", "visits"][n % 3], n * 10..n * 10 + 10).await;
    }
    // Edited records move to the end of their table.
    for id in ["notes0", "notes5"] {
        boss.push_one("notes", json!({ "id": id, "version": 1, "n": -1 })).await.applied("notes", id);
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut cursor, mut pages) = (Value::Null, 0);
    loop {
        let page = boss.pull_with(json!({ "cursor": cursor, "limit": 7 })).await;
        let ids = page.ids();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        pages += 1;
        let more = page.0["has_more"].as_bool().unwrap();
        assert_eq!(ids.len(), if more { 7 } else { 2 });
        assert_eq!(page.0["reset"], if pages == 1 { "first" } else { "more" });
        for (table, records) in page.0["changes"].as_object().unwrap() {
            seen.entry(table.clone()).or_default().extend(records.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()));
        }
        cursor = page.0["cursor"].clone();
        if !more {
            break;
        }
    }
    assert_eq!(pages, 15);
    let mut expected: Vec<String> = [0..10, 30..40, 60..70, 90..100].into_iter().flatten().map(|n| format!("notes{n}")).collect();
    expected.retain(|id| id != "notes0" && id != "notes5");
    expected.extend(["notes0".into(), "notes5".into()]);
    assert_eq!(seen["notes"], expected);
    assert_eq!(seen["visits"].len(), 30);
    // Exactly as many as fit: no empty page is announced.
    let page = boss.pull_with(json!({ "limit": 100 })).await;
    assert_eq!((page.ids().len(), &page.0["has_more"]), (100, &json!(false)));
    let idle = boss.pull_with(json!({ "cursor": page.cursor() })).await;
    assert_eq!(
        (&idle.0["changes"], &idle.0["evicted"], &idle.0["has_more"], &idle.0["reset"]),
        (&json!({}), &json!({}), &json!(false), &json!(false))
    );
    assert_eq!((idle.cursor(), &idle.0["timestamp"]), (page.cursor(), &page.0["timestamp"]));
    for limit in [0, -1] {
        boss.try_pull(json!({ "limit": limit })).await.refused(400, "invalid_request");
    }
    assert_eq!(boss.pull_with(json!({ "limit": 1_000_000 })).await.ids().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tables_asked_for_and_another_selection_starts_over() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    for table in ["notes", "plans", "visits"] {
        fill(&boss, table, 0..5).await;
    }
    let mut replica = Replica { tables: Some(vec!["plans".into(), "notes".into()]), limit: 2, ..Replica::new(boss.clone()) };
    replica.pull().await;
    assert_eq!((replica.mirror.len(), replica.resets), (10, 1));
    // The same in another order, and twice, is the same.
    replica.tables = Some(vec!["notes".into(), "plans".into(), "notes".into()]);
    replica.pull().await;
    assert_eq!(replica.resets, 1);
    let kept = |table: &str| json!({ "table": table });
    replica.edit("plans", "plans1", &kept("plans"));
    for (tables, count) in [(Some(vec!["notes"]), 5), (None, 15), (Some(vec!["visits", "plans"]), 10), (Some(vec![]), 0)] {
        replica.tables = tables.map(|tables| tables.into_iter().map(String::from).collect());
        let before = replica.resets;
        replica.pull().await;
        assert_eq!((replica.mirror.len(), replica.resets), (count, before + 1));
        assert_eq!(replica.outbox.len(), 1);
    }
    boss.try_pull(json!({ "tables": ["nowhere"] })).await.refused(422, "unknown_table");
    boss.try_pull(json!({ "tables": ["No Name"] })).await.refused(422, "unknown_table");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_starts_everybody_over_and_refuses_their_old_cursors() {
    let directory = tempfile::tempdir().unwrap();
    let office = kept(directory.path()).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    fill(&boss, "visits", 0..5).await;
    let mut replica = Replica::new(ben);
    replica.limit = 2;
    replica.pull().await;
    let (old, time) = (replica.cursor.clone(), replica.device.pull().await.0["timestamp"].clone());
    replica.edit("visits", "visits1", &json!({ "mine": true }));
    replica.edit("visits", "new", &json!({ "mine": true }));
    office.clock.advance(1_000_000);
    let office = restored(office).await;
    replica.device.address = office.address;
    // Nothing of a push by an old cursor is applied.
    let push = json!({ "cursor": old, "changes": { "visits": [{ "id": "x" }], "notes": [{ "id": "y" }] } });
    replica.device.try_push(push).await.refused(409, "epoch_changed");
    replica.device.record("notes", "y").await.refused(404, "not_found");
    replica.pull().await;
    assert_eq!((replica.resets, replica.outbox.len()), (2, 2));
    assert_eq!(replica.holds(), replica.truth().await);
    // A time before the restore tells nothing either.
    let page = replica.device.pull_with(json!({ "last_sync_timestamp": time })).await;
    assert_eq!(page.0["reset"], "first");
    let pushed = replica.push().await;
    pushed.applied("visits", "visits1");
    pushed.applied("visits", "new");
    replica.pull().await;
    assert_eq!(replica.mirror[&("visits".into(), "visits1".into())]["mine"], true);
    assert_eq!(replica.holds(), replica.truth().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_that_cannot_be_right() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    fill(&boss, "notes", 0..3).await;
    let good = backroom::domain::cursor::Cursor::parse(&boss.pull().await.cursor()).unwrap();
    for odd in ["", "x", "AAAA", "=", "é", &"A".repeat(46), &"A".repeat(5_000), &good.text()[1..], &format!("{}A", good.text())] {
        boss.try_pull(json!({ "cursor": odd })).await.refused(400, "invalid_cursor");
        boss.try_push(json!({ "cursor": odd })).await.refused(400, "invalid_cursor");
    }
    for odd in [json!({ "cursor": 7 }), json!({ "tables": "notes" }), json!({ "limit": "1" }), json!([])] {
        boss.try_pull(odd).await.refused(400, "invalid_request");
    }
    boss.try_pull(json!({ "last_sync_timestamp": "yesterday" })).await.refused(400, "invalid_request");
    // Ahead of the head, of another view, of another epoch, of another selection: all of them start over.
    let strange = [
        backroom::domain::cursor::Cursor { seq: good.seq + 1, ..good },
        backroom::domain::cursor::Cursor { seq: i64::MAX, ..good },
        backroom::domain::cursor::Cursor { view: good.view + 1, ..good },
        backroom::domain::cursor::Cursor { tables: 5, ..good },
        backroom::domain::cursor::Cursor { epoch: backroom::domain::cursor::Epoch(good.epoch.0 ^ 1), ..good },
    ];
    for cursor in strange {
        let page = boss.pull_with(json!({ "cursor": cursor.text() })).await;
        assert_eq!((&page.0["reset"], page.ids().len()), (&json!("first"), 3), "{cursor:?}");
    }
    assert_eq!(boss.pull_with(json!({ "cursor": good.text() })).await.0["reset"], false);
}

/// A device that was away, and what has been deleted and purged since.
async fn away(purge: impl AsyncFnOnce(&Appliance, &Device)) {
    let office = Appliance::with(RULES).await;
    let (root, ben) = (office.chief("root").await, office.clerk("ben", "A").await);
    fill(&root, "visits", 0..10).await;
    let mut replica = Replica::new(ben);
    replica.limit = 3;
    replica.pull().await;
    for id in ["visits1", "visits2", "visits3"] {
        replica.edit("visits", id, &json!({ "mine": id }));
    }
    replica.edit("visits", "new", &json!({ "mine": true }));
    root.push_one("visits", json!({ "id": "visits1", "version": 1, "deleted": true })).await.applied("visits", "visits1");
    root.push_one("visits", json!({ "id": "visits2", "version": 1, "store_id": "B" })).await.applied("visits", "visits2");
    purge(&office, &root).await;
    fill(&root, "notes", 0..1).await;
    replica.pull().await;
    assert_eq!(replica.resets, 2);
    assert_eq!(replica.holds(), replica.truth().await);
    assert_eq!(replica.mirror.len(), 9, "eight of ten, and a note");
    assert_eq!(replica.outbox.len(), 4, "what was not pushed stays");
    let pushed = replica.push().await;
    assert_eq!(pushed.rejected("visits1"), "gone");
    // Its base is purged; the record is another store's now, and was never seen as far as the server can tell.
    assert_eq!(pushed.rejected("visits2"), "forbidden");
    pushed.applied("visits", "visits3");
    pushed.applied("visits", "new");
    replica.pull().await;
    assert_eq!(replica.resets, 2);
    assert_eq!(replica.holds(), replica.truth().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_past_the_tombstone_floor_ends_equal() {
    away(async |office, root| {
        office.clock.advance(366 * DAY);
        root.post("/api/v1/sync/cleanup", json!({ "days_old": 90 })).await.ok();
    })
    .await;
    // Archived after 90 days, it no longer holds deletes back.
    away(async |office, root| {
        office.clock.advance(100 * DAY);
        root.post("/api/v1/sync/cleanup", json!({ "days_old": 90 })).await.ok();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exclude_own_leaves_out_what_the_device_itself_wrote_last() {
    let office = Appliance::with(RULES).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    fill(&boss, "notes", 0..3).await;
    let cursor = ben.pull().await.cursor();
    ben.push_one("notes", json!({ "id": "notes0", "version": 1, "n": 7 })).await;
    ben.push_one("notes", json!({ "id": "mine" })).await;
    ben.push_one("notes", json!({ "id": "theirs" })).await;
    ben.push_one("notes", json!({ "id": "notes2", "version": 1, "deleted": true })).await;
    ben.push_one("visits", json!({ "id": "filled" })).await;
    boss.push_one("notes", json!({ "id": "theirs", "version": 1, "n": 1 })).await;
    boss.push_one("notes", json!({ "id": "notes1", "version": 1, "n": 1 })).await;
    let page = ben.pull_with(json!({ "cursor": cursor, "exclude_own": true })).await;
    // The store that the server filled in is news to the device.
    assert_eq!(page.ids().into_iter().collect::<BTreeSet<_>>(), ["notes/notes1", "notes/theirs", "visits/filled"].map(String::from).into());
    let all = ben.pull_with(json!({ "cursor": cursor })).await;
    assert_eq!(all.ids().len(), 6);
    assert_eq!(page.cursor(), all.cursor());
    // From zero there is nothing that it surely still has.
    assert_eq!(ben.pull_with(json!({ "exclude_own": true })).await.ids().len(), ben.pull().await.ids().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pull_omits_old_deletes_and_hears_of_those_that_come_while_it_goes_on() {
    let office = Appliance::with(RULES).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    fill(&boss, "visits", 0..9).await;
    boss.push_one("visits", json!({ "id": "visits8", "version": 1, "deleted": true })).await;
    let mut replica = Replica::new(ben.clone());
    replica.limit = 3;
    assert!(replica.page().await);
    assert_eq!(replica.mirror.len(), 3);
    // One that it has, one that it would have got, one that leaves, one that is new, and the deleted one again.
    boss.push_one("visits", json!({ "id": "visits0", "version": 1, "deleted": true })).await.applied("visits", "visits0");
    boss.push_one("visits", json!({ "id": "visits7", "version": 1, "deleted": true })).await.applied("visits", "visits7");
    boss.push_one("visits", json!({ "id": "visits1", "version": 1, "store_id": "B" })).await.applied("visits", "visits1");
    fill(&boss, "visits", 20..21).await;
    let mut rest = Vec::new();
    loop {
        let page = ben.pull_with(json!({ "cursor": replica.cursor, "limit": 3 })).await.0;
        assert_eq!(page["reset"], "more");
        rest.push(page.clone());
        if !replica.take(&page) {
            break;
        }
    }
    let deleted: Vec<&Value> = rest
        .iter()
        .flat_map(|page| page["changes"]["visits"].as_array().into_iter().flatten())
        .filter(|r| r["deleted"] == true)
        .map(|r| &r["id"])
        .collect();
    assert_eq!(deleted, ["visits0", "visits7"]);
    assert_eq!(replica.evicted.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), ["visits1"]);
    assert_eq!(replica.holds(), replica.truth().await);
    assert_eq!(replica.mirror.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_reset_that_starts_over_forgets_its_first_marks() {
    let office = Appliance::with(RULES).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    fill(&boss, "visits", 0..9).await;
    let mut replica = Replica::new(ben);
    replica.limit = 4;
    assert!(replica.page().await);
    // In the middle of it the view changes: what was named then may be gone now.
    boss.push_one("visits", json!({ "id": "visits0", "version": 1, "store_id": "B" })).await;
    office.role("ben", backroom::domain::actor::Role::Store, &["A", "C"]).await;
    replica.pull().await;
    assert_eq!(replica.resets, 2);
    assert!(!replica.mirror.contains_key(&("visits".into(), "visits0".into())));
    assert_eq!(replica.holds(), replica.truth().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_are_strictly_increasing_whatever_the_clock_does() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    let mut last = String::new();
    for round in 0..40 {
        if round % 5 == 4 {
            office.clock.advance(-3_600_000_000);
        }
        let pushed = boss.push(json!({ "changes": { "notes": [{ "id": format!("n{round}") }, { "id": format!("m{round}") }] } })).await.0;
        let time = pushed["timestamp"].as_str().unwrap().to_owned();
        assert!(time > last, "{time} after {last}");
        assert_eq!(boss.pull().await.0["timestamp"].as_str(), Some(time.as_str()));
        last = time;
    }
    let odd: i64 = office
        .ask("SELECT count(*) FROM changes a JOIN changes b ON b.seq = (SELECT min(seq) FROM changes WHERE seq > a.seq) WHERE b.received_at <= a.received_at")
        .await;
    assert_eq!(odd, 0);
}

/// A client that keeps no cursor and echoes the server's timestamp.
struct Echo {
    device: Device,
    time: Option<String>,
    limit: i64,
    has: BTreeMap<Key, Value>,
}

impl Echo {
    async fn page(&mut self) -> bool {
        let page = self.device.pull_with(json!({ "last_sync_timestamp": self.time, "limit": self.limit })).await.0;
        if self.time.is_some() {
            assert_eq!(page["reset"], false);
        }
        for (table, records) in page["changes"].as_object().unwrap() {
            for record in records.as_array().unwrap() {
                self.has.insert((table.clone(), record["id"].as_str().unwrap().to_owned()), record.clone());
            }
        }
        self.time = Some(page["timestamp"].as_str().unwrap().to_owned());
        page["has_more"].as_bool().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_echo_the_servers_timestamp_lose_nothing_while_others_push() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    fill(&boss, "notes", 0..3).await;
    let mut pushing = Vec::new();
    for n in 0..4_u64 {
        let device = office.clerk(&format!("c{n}"), "A").await;
        let clock = office.clock.clone();
        pushing.push(tokio::spawn(async move {
            let mut dice = Dice(n);
            for round in 0..60 {
                let records: Vec<Value> = (0..1 + dice.roll(4))
                    .map(|k| json!({ "id": format!("r{}", dice.roll(60)), "v": format!("{n}/{round}/{k}") }))
                    .collect();
                device.push(json!({ "changes": { "notes": records } })).await;
                if dice.roll(6) == 0 {
                    clock.advance(dice.roll(3) as i64 * 1_000 - 1_000);
                }
            }
        }));
    }
    let mut echoes: Vec<Echo> =
        (1..=4).map(|limit| Echo { device: boss.clone(), time: None, limit: limit * limit, has: BTreeMap::new() }).collect();
    while !pushing.iter().all(|task| task.is_finished()) {
        for echo in &mut echoes {
            echo.page().await;
        }
    }
    for task in pushing {
        task.await.unwrap();
    }
    let mut truth = Replica::new(boss.clone());
    truth.pull().await;
    for echo in &mut echoes {
        while echo.page().await {}
        assert_eq!(echo.has, truth.mirror);
        // Idle: the same answer for ever.
        let time = echo.time.clone();
        assert!(!echo.page().await);
        assert_eq!(echo.time, time);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arbitrary_time_gets_what_was_committed_later_and_an_old_one_a_reset() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    let began = crate::support::quick::at(&office, 0);
    let mut times = Vec::new();
    for n in 0..5 {
        office.clock.advance(10_000_000);
        fill(&boss, "notes", n..n + 1).await;
        times.push(crate::support::quick::at(&office, 5));
    }
    office.clock.advance(60_000_000);
    for (n, time) in times.iter().enumerate() {
        let page = boss.pull_with(json!({ "last_sync_timestamp": time })).await;
        assert_eq!((page.ids().len(), &page.0["reset"]), (4 - n, &json!(false)));
    }
    let page = boss.pull_with(json!({ "last_sync_timestamp": began })).await;
    assert_eq!((page.ids().len(), &page.0["reset"]), (5, &json!(false)));
    for old in ["2001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "0001-01-01T00:00:00+05:00"] {
        let answer = boss.try_pull(json!({ "last_sync_timestamp": old })).await;
        if answer.status.is_success() {
            assert_eq!((&answer.body["reset"], answer.body["changes"]["notes"].as_array().unwrap().len()), (&json!("first"), 5), "{old}");
        } else {
            answer.refused(400, "invalid_request");
        }
    }
    // With zone, with any precision; a cursor beside it holds.
    let page = boss.pull_with(json!({ "last_sync_timestamp": "9998-01-01T00:00:00.123456789+02:00" })).await;
    assert!(page.ids().is_empty());
    let cursor = page.cursor();
    fill(&boss, "notes", 9..10).await;
    let page = boss.pull_with(json!({ "last_sync_timestamp": "2001-01-01T00:00:00Z", "cursor": cursor })).await;
    assert_eq!(page.ids(), ["notes/notes9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_it_grows_past_its_bytes() {
    let office = Appliance::with(RULES).await;
    let boss = office.boss("anna").await;
    let text = "x".repeat(1_000_000);
    for n in 0..20 {
        boss.push_one("notes", json!({ "id": format!("n{n}"), "text": text })).await.applied("notes", &format!("n{n}"));
    }
    let (mut cursor, mut counts) = (Value::Null, Vec::new());
    loop {
        let page = boss.try_pull(json!({ "cursor": cursor, "limit": 10_000 })).await;
        // One record more than fits at most.
        assert!(page.text.len() < (8 << 20) + (1 << 20) + 1_000, "{}", page.text.len());
        counts.push(page.body["changes"]["notes"].as_array().unwrap().len());
        cursor = page.body["cursor"].clone();
        if page.body["has_more"] == false {
            break;
        }
    }
    assert_eq!(counts, [9, 9, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_lives_of_devices_end_equal_to_the_server() {
    for seed in 0..8 {
        let office = Appliance::with(RULES).await;
        let (root, boss) = (office.chief("root").await, office.boss("anna").await);
        fill(&boss, "visits", 0..6).await;
        let mut dice = Dice(seed);
        let mut replicas = Vec::new();
        for (name, store) in [("a1", "A"), ("a2", "A"), ("b1", "B")] {
            replicas.push(Replica { limit: 1 + dice.roll(4) as i64, ..Replica::new(office.clerk(name, store).await) });
        }
        replicas.push(Replica { limit: 2, ..Replica::new(boss.clone()) });
        for step in 0..120 {
            let who = dice.roll(replicas.len());
            let id = format!("visits{}", dice.roll(8));
            match dice.roll(12) {
                0..=3 => drop(replicas[who].page().await),
                4..=6 => {
                    let replica = &mut replicas[who];
                    replica.edit("visits", &id, &json!({ "step": step }));
                    if who == 3 && !replica.mirror.contains_key(&("visits".into(), id.clone())) {
                        replica.outbox.last_mut().unwrap().1["store_id"] = json!("A");
                    }
                }
                7 => {
                    replicas[who].edit("visits", &id, &json!({ "deleted": true }));
                }
                8 | 9 => drop(replicas[who].push().await),
                10 => {
                    let now = boss.record("visits", &id).await.body["record"].clone();
                    if now["version"].is_number() && now["deleted"] != true {
                        let to = if now["store_id"] == "A" { "B" } else { "A" };
                        boss.push_one("visits", json!({ "id": id, "version": now["version"], "store_id": to, "moved": step })).await;
                    }
                }
                _ => match dice.roll(4) {
                    0 => {
                        office.clock.advance(1_000);
                        root.post("/api/v1/sync/cleanup", json!({ "days_old": 0 })).await.ok();
                    }
                    1 => office.role("a2", backroom::domain::actor::Role::Store, [&["A"][..], &["B"], &["A", "B"]][dice.roll(3)]).await,
                    2 => office.clock.advance([1_000_000, 100 * DAY][dice.roll(2)]),
                    _ => replicas[who].tables = [None, Some(vec!["visits".to_owned()])][dice.roll(2)].clone(),
                },
            }
        }
        for replica in &mut replicas {
            let waiting = replica.outbox.len();
            replica.pull().await;
            assert_eq!(replica.outbox.len(), waiting);
            assert_eq!(replica.holds(), replica.truth().await, "seed {seed} {}", replica.device.id);
        }
    }
}
