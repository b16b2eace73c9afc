//! What a call may cost, by query plans and SQLite's own count of steps: nothing here measures time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backroom::sqlite::writer::Outcome;
use backroom::store::{page, records, verify};
use rusqlite::StatementStatus;
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use serde_json::{Value, json};

use crate::support::quick::without_request_id;
use crate::support::{Answer, Appliance, Device};

const RULES: &str = r#"
[server]
readers = 1
[tables.forms]
write = "manager"
[tables.visits]
rule = "latest_wins"
scope = "store"
[tables.diaries]
rule = "latest_wins"
scope = "user"
[tables.people]
rule = "server_wins"
scope = "store"
unique = ["email"]
"#;

/// Every statement that ran, in order, with the steps of SQLite's machine that it took.
#[derive(Default)]
struct Seen {
    ran: Ran,
    /// Steps of a statement since it was prepared, by connection and text.
    before: HashMap<(usize, String), i64>,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);
/// SQLite's callback knows of no test, so these tests run one after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn seen() -> MutexGuard<'static, Option<Seen>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended<const CONNECTION: usize>(event: TraceEvent<'_>) {
    if let TraceEvent::Profile(statement, _) = event
        && let Some(seen) = seen().as_mut()
    {
        let (sql, steps) = (statement.sql().into_owned(), i64::from(statement.get_status(StatementStatus::VmStep)));
        let before = seen.before.insert((CONNECTION, sql.clone()), steps).unwrap_or(0);
        // A statement that was prepared anew counts from nothing again.
        seen.ran.push((sql, if steps >= before { steps - before } else { steps }));
    }
}

/// Statements with their steps.
type Ran = Vec<(String, i64)>;

/// The body of a push that names an id.
type Way<'a> = &'a dyn Fn(&str) -> Value;

/// What now and then rides along with a commit, whatever that is: figures and last-seen times.
const NOW_AND_THEN: [&str; 5] = ["UPDATE feeds", "INSERT INTO activity", "INSERT INTO hours", "INSERT INTO meta", "UPDATE devices"];

/// An appliance whose one writer and one reader are watched.
struct Watched {
    office: Appliance,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Watched {
    async fn start() -> Watched {
        let alone = ALONE.lock().await;
        let office = Appliance::with(RULES).await;
        *seen() = Some(Seen::default());
        let watch = |db: &rusqlite::Connection, ended: fn(TraceEvent<'_>)| {
            db.trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(ended));
            Ok(())
        };
        office.app.store.readers.run(move |db| watch(db, ended::<0>)).await.unwrap();
        office.app.store.writer.run(move |db, _| watch(db, ended::<1>).map(Outcome::Undo)).await.unwrap();
        Watched { office, _alone: alone }
    }

    /// Runs a call and gives its result with the statements that ran for it.
    async fn watch<T>(&self, call: impl Future<Output = T>) -> (T, Ran) {
        seen().as_mut().unwrap().ran.clear();
        let result = call.await;
        let ran = std::mem::take(&mut seen().as_mut().unwrap().ran);
        (result, ran.into_iter().filter(|(sql, _)| !NOW_AND_THEN.iter().any(|start| sql.starts_with(start))).collect())
    }

    /// The same, after the statements have been prepared by a first call of the kind.
    async fn steps<T>(&self, call: impl Future<Output = T>) -> (T, i64) {
        let (result, ran) = self.watch(call).await;
        assert!(!ran.is_empty(), "nothing was seen");
        (result, ran.iter().map(|(_, steps)| steps).sum())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *seen() = None;
    }
}

/// Pushes so many records, in the largest pushes that there are.
async fn fill(device: &Device, table: &str, ids: impl Iterator<Item = String>, fields: Value) {
    let ids: Vec<String> = ids.collect();
    for some in ids.chunks(2_500) {
        let record = |id: &String| {
            let mut record = fields.clone();
            record["id"] = json!(id);
            record
        };
        let records: Vec<Value> = some.iter().map(record).collect();
        let pushed = device.push(json!({ "changes": { table: records } })).await;
        assert_eq!(pushed.0["applied"][table].as_array().unwrap().len(), some.len());
    }
}

/// What SQLite means to do for a statement: one line for each table that it touches.
async fn plan(office: &Appliance, sql: String) -> Vec<String> {
    let explain = move |db: &rusqlite::Connection| {
        let mut query = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        // Parameters stay unbound: the plan does not depend on them.
        let lines = query.raw_query().mapped(|row| row.get::<_, String>("detail"));
        Ok(lines.collect::<rusqlite::Result<Vec<_>>>()?)
    };
    // The reader may only read; that does not keep it from explaining.
    office.app.store.readers.run(explain).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_calls_that_devices_make_goes_by_an_index() {
    let watched = Watched::start().await;
    let office = &watched.office;
    let (anna, till, other) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    let everything = async {
        let old = till.pull().await.cursor();
        till.push_one("visits", json!({ "id": "v1", "n": 1 })).await.applied("visits", "v1");
        till.push_one("visits", json!({ "id": "v1", "version": 1, "n": 2 })).await.applied("visits", "v1");
        till.operate(json!({ "op_id": "o1", "table": "visits", "id": "v2", "op": "create", "data": { "n": 1 } }))
            .await
            .applied("visits", "v2");
        till.operate(json!({ "op_id": "o1", "table": "visits", "id": "v2", "op": "create", "data": { "n": 1 } }))
            .await
            .applied("visits", "v2");
        till.operate(json!({ "op_id": "o2", "table": "visits", "id": "v2", "op": "update", "patch": { "n": 1 } }))
            .await
            .applied("visits", "v2");
        // A conflict that the server wins, one that the client wins, a retry of each, a bad record, a record of others.
        for _ in 0..2 {
            let late = json!({ "id": "v1", "version": 1, "n": 3, "store_id": "A", "updated_at": "2001-01-01T00:00:00Z" });
            anna.push_one("visits", late).await.conflict("v1");
            anna.push_one("visits", json!({ "id": "v1", "version": 1, "n": 4, "store_id": "A" })).await;
            till.push_one("visits", json!({ "id": "v1", "version": "x" })).await.rejected("v1");
            other.push_one("visits", json!({ "id": "v1", "n": 5 })).await.rejected("v1");
            till.push_one("visits", json!({ "id": "v9", "store_id": "B" })).await.rejected("v9");
        }
        till.push_one("people", json!({ "id": "p1", "email": "x" })).await.applied("people", "p1");
        till.push_one("people", json!({ "id": "p2", "email": "x" })).await.conflict("p2");
        till.push_one("people", json!({ "id": "p1", "email": "y", "version": 1 })).await.applied("people", "p1");
        till.push_one("people", json!({ "id": "p1", "deleted": true, "version": 2 })).await.applied("people", "p1");
        anna.push_one("visits", json!({ "id": "v2", "version": 1, "store_id": "B" })).await.applied("visits", "v2");
        till.push(json!({ "cursor": old, "changes": { "visits": [{ "id": "v1", "n": 6 }] } })).await;
        assert_eq!(till.pull_with(json!({ "cursor": old })).await.evicted(), ["visits/v2"]);
        let time = till.pull().await.0["timestamp"].clone();
        till.push_one("visits", json!({ "id": "v3" })).await.applied("visits", "v3");
        assert_eq!(till.pull_with(json!({ "last_sync_timestamp": time })).await.ids(), ["visits/v3"]);
        till.push(json!({ "last_sync_timestamp": time, "changes": { "visits": [{ "id": "v3", "n": 1 }] } })).await;
        for query in ["", "?table=visits", "?device_id=ben-1&status=resolved", "?status=open"] {
            let list = anna.get(&format!("/api/v1/sync/conflicts{query}")).await.ok();
            till.get(&format!("/api/v1/sync/conflicts{query}")).await.ok();
            for conflict in list["conflicts"].as_array().unwrap() {
                let path = format!("/api/v1/sync/conflicts/{}", conflict["conflict_id"].as_str().unwrap());
                anna.get(&path).await.ok();
                anna.post(&format!("{path}/resolve"), json!({ "resolution": "use_client", "revert": true })).await;
            }
        }
        till.post("/api/v1/records/visits/v3/history/1/restore", json!({})).await.ok();
        anna.pull().await;
        till.record("visits", "v1").await.ok();
        till.get("/api/v1/records/visits/v1/history").await.ok();
        till.post("/api/v1/sync/delta", json!({ "table": "visits", "id": "v1", "version": 1, "fields": {} })).await.ok();
        for device in [&till, &anna] {
            let request = json!({ "cursor": device.pull().await.cursor(), "buckets": ["visits"], "records": { "visits": [0, 1, 2] } });
            device.post("/api/v1/sync/verify", request).await.ok();
        }
    };
    let ((), ran) = watched.watch(everything).await;
    let statements: BTreeSet<String> = ran.into_iter().map(|(sql, _)| sql).collect();
    let mut plans = BTreeMap::new();
    for sql in statements {
        let first = sql.split_whitespace().next().unwrap_or_default();
        if ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&first) {
            plans.insert(sql.clone(), plan(office, sql).await);
        }
    }
    assert!(plans.len() > 25, "{} statements were seen", plans.len());
    for (sql, lines) in &plans {
        for line in lines {
            // The versions of one record, as a recursive query holds them, are no table.
            let own = ["SCAN v", "SCAN versions", "SCAN 2-ROW", "SCAN CONSTANT ROW"].contains(&line.as_str());
            assert!(own || !line.starts_with("SCAN"), "{line}: {sql}");
            // The few answers to one change's several tries aside, nothing is sorted.
            let sorted = line.contains("TEMP B-TREE") && !line.contains("LAST TERM OF ORDER BY");
            assert!(!line.contains("AUTOMATIC") && !sorted, "{line}: {sql}");
        }
    }
    let by = |part: &str| -> Vec<&str> {
        let (_, lines) = plans.iter().find(|(sql, _)| sql.contains(part)).unwrap_or_else(|| panic!("{part:?} did not run"));
        lines.iter().map(String::as_str).collect()
    };
    let change = "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)";
    let feed = "SEARCH f USING INTEGER PRIMARY KEY (rowid=?)";
    assert_eq!(by(records::HEAD), ["SEARCH h USING PRIMARY KEY (tbl=? AND id=?)", change, feed]);
    assert_eq!(by(page::FEED_ORDER), ["SEARCH changes USING INDEX feed_order (feed=? AND seq>? AND seq<?)"]);
    assert_eq!(by(page::RECORD), ["SEARCH changes USING INTEGER PRIMARY KEY (rowid=?)"]);
    assert_eq!(by(verify::LIVE), ["SEARCH changes USING INDEX feed_order (feed=?)"]);
    assert_eq!(by("WHERE c.named = 1 AND c.device = ?1 AND c.op = ?2"), ["SEARCH c USING INDEX operations (device=? AND op=?)", feed]);
    assert_eq!(by("SELECT seq, id FROM evictions WHERE feed = ?1"), ["SEARCH evictions USING PRIMARY KEY (feed=? AND seq>? AND seq<?)"]);
    assert_eq!(by("FROM receipts WHERE device = ?1 AND op = ?2"), ["SEARCH receipts USING PRIMARY KEY (device=? AND op=?)"]);
    let [last_sent, _] = by("outcome IN ('noop', 'conflict')")[..] else { panic!() };
    assert_eq!(last_sent, "SEARCH receipts USING INDEX receipts_of_record (tbl=? AND id=? AND device=?)");
    assert_eq!(by("FROM unique_keys WHERE feed = ?1"), ["SEARCH unique_keys USING PRIMARY KEY (feed=? AND key=?)"]);
}

/// The steps of pulls and pushes of store A, in an office where others have done so much.
async fn steps_beside(others: usize) -> BTreeMap<&'static str, i64> {
    let watched = Watched::start().await;
    let office = &watched.office;
    let (anna, till, other) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    // What is there before, for the till and the others.
    fill(&till, "visits", (0..200).map(|n| format!("old-{n}")), json!({ "n": 1 })).await;
    fill(&other, "visits", (0..others).map(|n| format!("b-{n}")), json!({ "n": 1 })).await;
    // 100 new records for the till, between those of others, who also delete and move.
    for part in 0..10 {
        fill(&other, "visits", (0..others / 20).map(|n| format!("b-{part}-{n}")), json!({ "n": 1 })).await;
        fill(&other, "diaries", (0..others / 100).map(|n| format!("d-{part}-{n}")), json!({ "n": 1 })).await;
        let dead: Vec<Value> = (0..others / 40).map(|n| json!({ "id": format!("b-{part}-{n}"), "version": 1, "deleted": true })).collect();
        other.push(json!({ "changes": { "visits": dead } })).await;
        fill(&till, "visits", (0..10).map(|n| format!("new-{part}-{n}")), json!({ "n": 1 })).await;
        fill(&anna, "forms", (0..10).map(|n| format!("f-{part}-{n}")), json!({ "n": 1 })).await;
    }
    // Many answers of the till's own: to changes that changed nothing, and to bad ones.
    for part in 0..others / 1_000 {
        let same: Vec<Value> = (0..100)
            .map(|n| json!({ "id": format!("old-{n}"), "version": 1, "n": 1, "updated_at": format!("2025-01-01T00:00:{part:02}Z") }))
            .collect();
        let pushed = till.push(json!({ "changes": { "visits": same } })).await;
        assert!(pushed.0["applied"]["visits"].as_array().unwrap().iter().all(|entry| entry["status"] == "noop"));
    }
    // Deep histories: of what the till pulls, and of what others have.
    let depth = if others == 0 { 0 } else { 30 };
    for n in 0..depth {
        let again = |id: String| json!({ "id": id, "version": n + 1, "n": n + 2 });
        let records: Vec<Value> = (0..10).map(|k| again(format!("new-9-{k}"))).collect();
        assert_eq!(till.push(json!({ "changes": { "visits": records } })).await.0["applied"]["visits"].as_array().unwrap().len(), 10);
        let records: Vec<Value> = (0..100).map(|k| again(format!("b-{k}"))).collect();
        other.push(json!({ "changes": { "visits": records } })).await;
    }
    let forms = || anna.pull_with(json!({ "tables": ["forms"], "limit": 50 }));
    let mut steps = BTreeMap::new();
    // The old ones are behind the till.
    let old = till.pull_with(json!({ "tables": ["visits"], "limit": 200 })).await;
    assert!(old.records("visits").iter().all(|record| record["id"].as_str().unwrap().starts_with("old-")));
    let cursor = old.cursor();
    let pull = |limit: usize| till.pull_with(json!({ "cursor": cursor, "tables": ["visits"], "limit": limit }));
    // Once, so that every statement is prepared.
    pull(1_000).await;
    forms().await;
    let (page, taken) = watched.steps(pull(1_000)).await;
    assert_eq!(page.records("visits").len(), 100);
    steps.insert("a pull of 100 changes", taken);
    let (page, taken) = watched.steps(pull(10)).await;
    assert_eq!(page.records("visits").len(), 10);
    steps.insert("a page of 10 changes", taken);
    let (page, taken) = watched.steps(forms()).await;
    assert_eq!(page.records("forms").len(), 50);
    steps.insert("a manager's page of one table", taken);

    let version = json!(if depth > 0 { depth + 1 } else { 1 });
    let edit = |id: &'static str, version: Value, n: i64| {
        let till = &till;
        async move {
            till.push_one("visits", json!({ "id": id, "version": version, "n": n })).await.applied("visits", id)["status"] == "applied"
        }
    };
    assert!(edit("new-9-0", version.clone(), 1_000).await);
    let (applied, taken) = watched.steps(edit("new-9-1", version, 1_000)).await;
    assert!(applied);
    steps.insert("a push of an edit", taken);
    till.push_one("visits", json!({ "id": "x1" })).await.applied("visits", "x1");
    let (_, taken) = watched.steps(till.push_one("visits", json!({ "id": "x2" }))).await;
    steps.insert("a push of a new record", taken);
    let named = |id: &'static str| json!({ "op_id": id, "table": "visits", "id": id, "op": "create", "data": { "n": 1 } });
    till.operate(named("y1")).await.applied("visits", "y1");
    let (_, taken) = watched.steps(till.operate(named("y2"))).await;
    steps.insert("a push of an operation", taken);
    till.operate(named("y1")).await;
    let (_, taken) = watched.steps(till.operate(named("y2"))).await;
    steps.insert("a retry", taken);
    till.record("visits", "old-1").await.ok();
    let (_, taken) = watched.steps(till.record("visits", "old-2")).await;
    steps.insert("a look at a record", taken);
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_makes_no_pull_and_no_push_dearer() {
    let (alone, crowded) = (steps_beside(0).await, steps_beside(20_000).await);
    assert_eq!(alone, crowded);
    // And each costs what it returns: a few steps a record.
    assert!(alone["a pull of 100 changes"] < 5_000, "{alone:?}");
    assert!(alone["a page of 10 changes"] * 5 < alone["a pull of 100 changes"], "{alone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pull_asks_the_database_nothing() {
    let watched = Watched::start().await;
    let (mut till, mut other) = (watched.office.clerk("ben", "A").await, watched.office.clerk("dora", "B").await);
    till.push_one("visits", json!({ "id": "v1" })).await.applied("visits", "v1");
    till.sync().await;
    let (page, ran) = watched.watch(till.sync()).await;
    assert!(page.ids().is_empty() && ran.is_empty(), "{ran:?}");
    // Also when others have news.
    other.push_one("visits", json!({ "id": "v2" })).await.applied("visits", "v2");
    let (page, ran) = watched.watch(till.sync()).await;
    assert!(page.ids().is_empty() && ran.is_empty(), "{ran:?}");
    let (page, ran) = watched.watch(other.sync()).await;
    assert!(page.ids() == ["visits/v2"] && !ran.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_id_and_an_absent_one_run_the_same_statements_and_answer_the_same() {
    let watched = Watched::start().await;
    let office = &watched.office;
    let (ben, dora) = (office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    // Hidden ids: one with a single version, one with a history, a deleted one, one with a unique key. Of each as many as
    // there are ways to ask, since a refusal is remembered.
    let ways = 12;
    for n in 0..ways {
        for kind in ["one", "old", "dead"] {
            let id = format!("{kind}-{n:02}");
            dora.push_one("visits", json!({ "id": id, "n": 0 })).await.applied("visits", &id);
            for version in 1..=if kind == "old" { 5 } else { 0 } {
                dora.push_one("visits", json!({ "id": id, "version": version, "n": version })).await.applied("visits", &id);
            }
            if kind == "dead" {
                dora.push_one("visits", json!({ "id": id, "version": 1, "deleted": true })).await.applied("visits", &id);
            }
        }
        let id = format!("one-{n:02}");
        dora.push_one("people", json!({ "id": id, "email": id })).await.applied("people", &id);
        dora.push_one("diaries", json!({ "id": id })).await.applied("diaries", &id);
    }
    let compare = |way: &str, (hidden, absent): ((Answer, Ran), (Answer, Ran)), ids: (&str, &str)| {
        let statements = |ran: &[(String, i64)]| ran.iter().map(|(sql, _)| sql.clone()).collect::<Vec<_>>();
        assert!(!hidden.1.is_empty(), "{way}: nothing was seen");
        assert_eq!(statements(&hidden.1), statements(&absent.1), "{way} {ids:?}");
        let plain = |answer: &Answer| {
            let mut body = match answer.status.as_u16() {
                200 => answer.body.clone(),
                _ => without_request_id(&answer.text),
            };
            for field in ["head", "timestamp"] {
                body.as_object_mut().unwrap().remove(field);
            }
            body.to_string()
        };
        assert_eq!(plain(&hidden.0).replace(ids.0, ids.1), plain(&absent.0), "{way} {ids:?}");
        assert_eq!(hidden.0.status, absent.0.status, "{way}");
    };
    // Each statement is prepared once before, so that both sides find the connections alike.
    let cases = [("visits", "one"), ("visits", "old"), ("visits", "dead"), ("people", "one"), ("diaries", "one")];
    for (place, (table, kind)) in cases.into_iter().enumerate() {
        let ids = |n: usize| (format!("{kind}-{n:02}"), format!("{}-{n:02}", ["aaa", "bbb", "cccc", "ddd", "eee"][place]));
        let (hidden, absent) = ids(0);
        for tail in ["", "/history"] {
            let look = |id: &str| watched.watch(ben.clone().looks(format!("/api/v1/records/{table}/{id}{tail}")));
            compare(tail, (look(&hidden).await, look(&absent).await), (&hidden, &absent));
        }
        let scope = if table == "diaries" { json!({ "user_id": "dora" }) } else { json!({ "store_id": "B" }) };
        let with = |mut fields: Value| {
            fields.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
            fields
        };
        let record = |id: &str, more: Value| {
            let mut record = with(more);
            record["id"] = json!(id);
            json!({ "changes": { table: [record] } })
        };
        let operation = |id: &str, more: Value| {
            let mut operation = json!({ "op_id": format!("{table}-{id}"), "table": table, "id": id, "op": "update" });
            operation.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "operations": [operation] })
        };
        let hash = json!({ "hash": "00112233445566778899aabbccddeeff" });
        let pushes: [(&str, Way<'_>); 11] = [
            ("a record", &|id| record(id, json!({ "email": "x" }))),
            ("a record from version 1", &|id| record(id, json!({ "version": 1 }))),
            ("a record from version 9", &|id| record(id, json!({ "version": 9 }))),
            ("a record from nothing", &|id| record(id, json!({ "version": 0 }))),
            ("a dated record", &|id| record(id, json!({ "updated_at": "2025-12-18T10:50:00Z" }))),
            ("an operation", &|id| operation(id, json!({ "data": with(json!({})) }))),
            ("a creation", &|id| operation(id, json!({ "op": "create", "data": with(json!({})) }))),
            ("a patch", &|id| operation(id, json!({ "patch": with(json!({ "n": 1 })) }))),
            ("an operation from a hash", &|id| operation(id, json!({ "data": with(json!({})), "base": hash }))),
            ("an operation from data", &|id| operation(id, json!({ "data": with(json!({})), "base": { "data": with(json!({})) } }))),
            ("a dry run", &|id| {
                let mut push = record(id, json!({}));
                push["dry_run"] = json!(true);
                push
            }),
        ];
        for (n, (way, push)) in pushes.into_iter().enumerate() {
            let (hidden, absent) = ids(n + 1);
            let send = |id: &str| watched.watch(ben.clone().pushes(push(id)));
            let first = (send(&hidden).await, send(&absent).await);
            assert_eq!(first.0.0.body["rejected"][0]["code"], "forbidden", "{way}: {}", first.0.0.text);
            compare(way, first, (&hidden, &absent));
            // And once more: the refusal is remembered for both alike.
            compare(way, (send(&hidden).await, send(&absent).await), (&hidden, &absent));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_conflict_or_version_and_an_absent_one_run_the_same_statements() {
    let watched = Watched::start().await;
    let office = &watched.office;
    let (ben, anna, dora) = (office.clerk("ben", "A").await, office.boss("anna").await, office.clerk("dora", "B").await);
    for record in [json!({ "id": "v", "n": 1 }), json!({ "id": "v", "version": 1, "n": 2 })] {
        dora.push_one("visits", record).await.applied("visits", "v");
    }
    let other = office.enrolled("dora", "2").await;
    let hidden = other.push_one("visits", json!({ "id": "v", "version": 1, "n": 3, "updated_at": "2001-01-01T00:00:00Z" })).await;
    let hidden = hidden.conflict("v")["conflict_id"].as_str().unwrap().to_owned();
    // The record comes to A, and what it was with B stays hidden.
    anna.push_one("visits", json!({ "id": "v", "version": 2, "store_id": "A", "n": 4 })).await.applied("visits", "v");
    for open in [false, true] {
        if open {
            let open = |db: &rusqlite::Connection, _: &mut _| Ok(Outcome::Keep(db.execute_batch("UPDATE conflicts SET status = 'open'")?));
            office.app.store.writer.run(open).await.unwrap();
        }
        for (what, hidden, absent) in [
            ("/api/v1/sync/conflicts/#", hidden.as_str(), "00000000-0000-7000-8000-000000000000"),
            ("/api/v1/sync/conflicts/#/resolve", &hidden, "00000000-0000-7000-8000-000000000000"),
            ("/api/v1/records/visits/v/history/#/restore", "2", "7"),
        ] {
            let ask = async |id: &str| {
                let (path, ben) = (what.replace('#', id), ben.clone());
                watched
                    .watch(async {
                        match what.rsplit('/').next() {
                            Some("resolve") => ben.post(&path, json!({ "resolution": "use_server" })).await,
                            Some("restore") => ben.post(&path, json!({})).await,
                            _ => ben.get(&path).await,
                        }
                    })
                    .await
            };
            ask(absent).await;
            let (hidden, absent) = (ask(hidden).await, ask(absent).await);
            hidden.0.refused(404, "not_found");
            assert_eq!(without_request_id(&hidden.0.text), without_request_id(&absent.0.text), "{what}");
            let statements = |ran: &Ran| ran.iter().map(|(sql, _)| sql.clone()).collect::<Vec<_>>();
            assert!(!hidden.1.is_empty(), "{what}: nothing was seen");
            assert_eq!(statements(&hidden.1), statements(&absent.1), "{what}");
        }
    }
}

impl Device {
    async fn looks(self, path: String) -> Answer {
        self.get(&path).await
    }

    async fn pushes(self, body: Value) -> Answer {
        self.try_push(body).await
    }
}
