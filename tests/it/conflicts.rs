//! Who wins: each rule with roles, times, clocks, deletes; what a table refuses; and one bad change among good ones.

use backroom::domain::actor::Role;
use serde_json::{Value, json};

use crate::support::quick::at;
use crate::support::{Appliance, Device, Pushed};

const RULES: &str = r#"
[tables.plans]
rule = "manager_wins"
[tables.notes]
rule = "latest_wins"
[tables.prices]
rule = "server_wins"
granularity = "record"
[tables.drafts]
rule = "client_wins"
[tables.cases]
rule = "manual"
granularity = "record"
[tables.people]
rule = "latest_wins"
scope = "store"
unique = ["email"]
[tables.ledger]
append_only = true
[tables.strict]
required = ["title", "kind"]
[tables.unruled]
"#;

/// An office with a manager and two tills of one store.
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
    fn at(&self, seconds: i64) -> String {
        at(&self.office, seconds)
    }

    /// A record at version 1, made long ago.
    async fn begin(&self, table: &str) {
        let record = json!({ "id": "r", "updated_at": self.at(-3600), "a": 0, "b": 0 });
        self.boss.push_one(table, record).await.applied(table, "r");
    }

    /// Both edited version 1, the first to arrive and then the second; how the second fared. Times in seconds from now.
    async fn clash(&self, table: &str, (first, first_at): (&Device, i64), (second, second_at): (&Device, i64)) -> Pushed {
        self.begin(table).await;
        let early = json!({ "id": "r", "version": 1, "updated_at": self.at(first_at), "a": 1, "b": 0 });
        assert_eq!(first.push_one(table, early).await.applied(table, "r")["version"], 2);
        let late = json!({ "id": "r", "version": 1, "updated_at": self.at(second_at), "a": 2, "b": 0 });
        second.push_one(table, late).await
    }

    async fn value(&self, table: &str) -> Value {
        self.boss.record(table, "r").await.ok()["record"].clone()
    }
}

#[track_caller]
fn won(pushed: &Pushed, rule: &str, winner: &str) {
    let conflict = pushed.conflict("r");
    assert_eq!((&conflict["rule"], &conflict["winner"]), (&json!(rule), &json!(winner)), "{conflict}");
    assert_eq!(conflict["status"], if winner == "none" { "open" } else { "resolved" });
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_wins_over_stores_whoever_comes_first_and_whatever_the_time() {
    for (boss_first, boss_at, store_at) in [(true, -60, -30), (true, -30, -60), (false, -60, -30), (false, -30, -60)] {
        let o = office().await;
        let (boss, store) = ((&o.boss, boss_at), (&o.one, store_at));
        let pushed = if boss_first { o.clash("plans", boss, store).await } else { o.clash("plans", store, boss).await };
        won(&pushed, "manager_wins", if boss_first { "server" } else { "client" });
        assert_eq!(o.value("plans").await["a"], if boss_first { 1 } else { 2 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_wins_between_equals_is_the_later_edit() {
    let o = office().await;
    won(&o.clash("plans", (&o.one, -30), (&o.two, -60)).await, "manager_wins", "server");
    let o = office().await;
    won(&o.clash("plans", (&o.one, -60), (&o.two, -30)).await, "manager_wins", "client");
    // An admin ranks as a manager does, so the time decides between the two.
    let o = office().await;
    let admin = o.office.chief("root").await;
    won(&o.clash("plans", (&o.boss, -30), (&admin, -60)).await, "manager_wins", "server");
    let o = office().await;
    let admin = o.office.chief("root").await;
    won(&o.clash("plans", (&admin, -60), (&o.boss, -30)).await, "manager_wins", "client");
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_wins_takes_the_later_edit_in_any_order() {
    let o = office().await;
    won(&o.clash("notes", (&o.one, -60), (&o.two, -30)).await, "latest_wins", "client");
    assert_eq!(o.value("notes").await["a"], 2);
    let o = office().await;
    won(&o.clash("notes", (&o.boss, -30), (&o.two, -60)).await, "latest_wins", "server");
    assert_eq!(o.value("notes").await["a"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_times_fall_through_to_the_server() {
    let now = 1_700_000_000;
    for table in ["notes", "plans"] {
        let o = office().await;
        o.begin(table).await;
        let same = backroom::domain::clock::text(now * 1_000_000);
        for (device, value) in [(&o.one, 1), (&o.two, 2)] {
            let record = json!({ "id": "r", "version": 1, "updated_at": same, "a": value, "b": 0 });
            let pushed = device.push_one(table, record).await;
            if value == 1 { drop(pushed.applied(table, "r").clone()) } else { won(&pushed, o.rule(table), "server") }
        }
        assert_eq!(o.value(table).await["a"], 1);
    }
}

impl Office {
    fn rule(&self, table: &str) -> &'static str {
        match table {
            "notes" => "latest_wins",
            _ => "manager_wins",
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_wins_client_wins_and_a_table_that_names_no_rule() {
    for (table, rule, winner, value) in
        [("prices", "server_wins", "server", 1), ("drafts", "client_wins", "client", 2), ("unruled", "server_wins", "server", 1)]
    {
        for times in [(-60, -30), (-30, -60)] {
            let o = office().await;
            won(&o.clash(table, (&o.one, times.0), (&o.boss, times.1)).await, rule, winner);
            let now = o.value(table).await;
            assert_eq!((&now["a"], &now["version"]), (&json!(value), &json!(if winner == "client" { 3 } else { 2 })));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_leaves_it_open_with_a_suggestion_and_later_changes_of_the_device_join() {
    let o = office().await;
    let pushed = o.clash("cases", (&o.one, -60), (&o.two, -30)).await;
    won(&pushed, "manual", "none");
    let first = pushed.conflict("r").clone();
    assert_eq!((&first["suggested_resolution"], &first["version"]), (&json!("use_client"), &json!(2)));
    assert_eq!(o.value("cases").await["a"], 1);
    // The same device changes its mind: the same conflict, with its newer content.
    let again = json!({ "id": "r", "version": 1, "updated_at": o.at(-20), "a": 3, "b": 3 });
    let joined = o.two.push_one("cases", again).await.conflict("r").clone();
    assert_eq!(joined["conflict_id"], first["conflict_id"]);
    assert_eq!((&joined["client_data"]["a"], &joined["fields"]), (&json!(3), &json!(["a", "b"])));
    // Another device's change is a conflict of its own; it is the manager's, so it is suggested.
    let other = json!({ "id": "r", "version": 1, "updated_at": o.at(-1800), "a": 4, "b": 0 });
    let others = o.boss.push_one("cases", other).await.conflict("r").clone();
    assert_ne!(others["conflict_id"], first["conflict_id"]);
    assert_eq!(others["suggested_resolution"], "use_client");
    let earlier = office().await;
    let pushed = earlier.clash("cases", (&earlier.one, -30), (&earlier.two, -60)).await;
    assert_eq!(pushed.conflict("r")["suggested_resolution"], "use_server");
    let rows: i64 = o.office.ask("SELECT count(*) FROM conflicts WHERE status = 'open'").await;
    assert_eq!(rows, 2);
    // Base of the first, content of the last.
    let (base, client): (String, String) = (
        o.office.ask("SELECT base FROM conflicts WHERE user = (SELECT no FROM users WHERE name = 'cleo')").await,
        o.office.ask("SELECT client FROM conflicts WHERE user = (SELECT no FROM users WHERE name = 'cleo')").await,
    );
    assert_eq!((base.as_str(), client.as_str()), (r#"{"a":0,"b":0}"#, r#"{"a":3,"b":3}"#));
    let status = o.boss.get("/api/v1/sync/status").await.ok();
    assert_eq!(status["counts"]["open_conflicts"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_two_hours_ahead_neither_wins_nor_loses_by_it() {
    const AHEAD: i64 = 7_200;
    // Really edited a minute ago, against an edit of half a minute ago: it loses, whatever its clock says.
    for (really, winner) in [(-60, "server"), (-10, "client")] {
        let o = office().await;
        o.begin("notes").await;
        let other = json!({ "id": "r", "version": 1, "updated_at": o.at(-30), "a": 1, "b": 0 });
        o.one.push_one("notes", other).await.applied("notes", "r");
        let own = json!({ "id": "r", "version": 1, "updated_at": o.at(AHEAD + really), "a": 2, "b": 0 });
        let pushed = o.two.push(json!({ "timestamp": o.at(AHEAD), "changes": { "notes": [own] } })).await;
        won(&pushed, "latest_wins", winner);
        // Its own time stays as it wrote it; the skew is kept on the device.
        assert_eq!(pushed.conflict("r")["client_data"]["updated_at"].as_str().unwrap()[..16], o.at(AHEAD + really)[..16]);
        let device = o.boss.get("/api/v1/sync/devices/cleo-1").await.ok();
        let skew = device["clock_skew_ms"].as_i64().unwrap();
        assert!((7_190_000..7_210_000).contains(&skew), "{skew}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_from_the_future_counts_as_made_now() {
    let o = office().await;
    o.begin("notes").await;
    // No timestamp, so no correction: a time ahead of the server's is taken for now, not for tomorrow.
    let future = json!({ "id": "r", "version": 1, "updated_at": o.at(86_400), "a": 1, "b": 0 });
    o.one.push_one("notes", future).await.applied("notes", "r");
    o.office.clock.advance(60_000_000);
    let later = json!({ "id": "r", "version": 1, "updated_at": o.at(-30), "a": 2, "b": 0 });
    won(&o.two.push_one("notes", later).await, "latest_wins", "client");
    // And one without a time is made when it arrives.
    let o = office().await;
    o.begin("notes").await;
    let other = json!({ "id": "r", "version": 1, "updated_at": o.at(0), "a": 1, "b": 0 });
    o.one.push_one("notes", other).await.applied("notes", "r");
    won(&o.two.push_one("notes", json!({ "id": "r", "version": 1, "a": 2, "b": 0 })).await, "latest_wins", "client");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_losers_data_is_kept_on_either_side() {
    let o = office().await;
    let lost = o.clash("prices", (&o.one, -60), (&o.two, -30)).await;
    let conflict = lost.conflict("r");
    assert_eq!(conflict["fields"], json!(["a"]));
    assert_eq!((&conflict["client_data"]["a"], &conflict["server_data"]["a"]), (&json!(2), &json!(1)));
    assert_eq!((&conflict["server_data"]["version"], &conflict["version"]), (&json!(2), &json!(2)));
    let won = o.clash_on("drafts").await;
    let conflict = won.conflict("r");
    assert_eq!((&conflict["client_data"]["a"], &conflict["server_data"]["a"]), (&json!(2), &json!(1)));
    assert_eq!((&conflict["server_data"]["version"], &conflict["version"]), (&json!(2), &json!(3)));
    for (rule, winner) in [("server_wins", "server"), ("client_wins", "client")] {
        let row: String = o
            .office
            .app
            .store
            .readers
            .run(move |db| {
                Ok(db.query_row(
                    "SELECT winner || ' ' || base || client || server || server_version || status FROM conflicts WHERE rule = ?1",
                    [rule],
                    |row| row.get(0),
                )?)
            })
            .await
            .unwrap();
        assert_eq!(row, format!(r#"{winner} {{"a":0,"b":0}}{{"a":2,"b":0}}{{"a":1,"b":0}}2resolved"#));
    }
    // What lost is in the history too, with the rule that replaced it.
    let history = o.boss.get("/api/v1/records/drafts/r/history").await.ok()["history"].clone();
    assert_eq!((&history[0]["rule"], &history[0]["data"]["a"], &history[1]["data"]["a"]), (&json!("client_wins"), &json!(2), &json!(1)));
}

impl Office {
    async fn clash_on(&self, table: &str) -> Pushed {
        self.clash(table, (&self.one, -60), (&self.two, -30)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_against_an_edit_is_a_conflict_of_whole_records() {
    for (delete_first, second_later, winner) in
        [(true, true, "client"), (true, false, "server"), (false, true, "client"), (false, false, "server")]
    {
        let o = office().await;
        o.begin("notes").await;
        let (first_at, second_at) = if second_later { (-60, -30) } else { (-30, -60) };
        let edit = |when: i64| json!({ "id": "r", "version": 1, "updated_at": o.at(when), "a": 7, "b": 0 });
        let delete = |when: i64| json!({ "id": "r", "version": 1, "updated_at": o.at(when), "deleted": true });
        let (first, second) = if delete_first { (delete(first_at), edit(second_at)) } else { (edit(first_at), delete(second_at)) };
        o.one.push_one("notes", first).await.applied("notes", "r");
        let pushed = o.two.push_one("notes", second).await;
        won(&pushed, "latest_wins", winner);
        let conflict = pushed.conflict("r");
        assert_eq!(conflict["fields"], json!(["*"]));
        assert_eq!(conflict[if delete_first { "server_data" } else { "client_data" }]["deleted"], true);
        let gone = delete_first == (winner == "server");
        assert_eq!(o.value("notes").await["deleted"], if gone { json!(true) } else { Value::Null });
        if !gone {
            assert_eq!(o.value("notes").await["a"], 7);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_on_a_tombstone_begins_a_new_life_and_a_second_delete_is_nothing() {
    let o = office().await;
    o.begin("prices").await;
    o.one.push_one("prices", json!({ "id": "r", "version": 1, "deleted": true })).await.applied("prices", "r");
    let again = o.two.push_one("prices", json!({ "id": "r", "version": 1, "deleted": true })).await;
    assert_eq!(again.applied("prices", "r")["status"], "noop");
    // server_wins, and yet: who knows that it was deleted and writes it again means it.
    let revived = o.two.push_one("prices", json!({ "id": "r", "version": 2, "a": 5 })).await;
    assert_eq!(revived.applied("prices", "r")["version"], 3);
    let now = o.value("prices").await;
    assert_eq!((&now["a"], now.get("b"), now.get("deleted")), (&json!(5), None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_edits_never_conflict_with_each_other() {
    let o = office().await;
    o.begin("prices").await;
    // The device goes on from version 1 without having seen its own version 2 and 3.
    for (value, version) in [(1, 2), (2, 3), (3, 4)] {
        let pushed = o.one.push_one("prices", json!({ "id": "r", "version": 1, "a": value, "b": 0 })).await;
        assert_eq!(pushed.applied("prices", "r")["version"], version);
    }
    // It deletes the record and takes that back, with the version that it was first given.
    for record in [json!({ "id": "r", "version": 1, "deleted": true }), json!({ "id": "r", "version": 1, "a": 9 })] {
        o.one.push_one("prices", record).await.applied("prices", "r");
    }
    assert_eq!(o.value("prices").await["a"], 9);
    o.office.clock.advance(60_000_000);
    // Nothing without a name that is older than its own newer edit, though: not as an edit, not as a delete.
    let fresh = json!({ "id": "r", "version": 1, "updated_at": o.at(-10), "a": 10 });
    o.one.push_one("prices", fresh).await.applied("prices", "r");
    for stale in [
        json!({ "id": "r", "version": 1, "updated_at": o.at(-20), "a": 11 }),
        json!({ "id": "r", "version": 1, "updated_at": o.at(-20), "deleted": true }),
    ] {
        let conflict = o.one.push_one("prices", stale).await.conflict("r").clone();
        assert_eq!((&conflict["winner"], &conflict["reason"]), (&json!("server"), &json!("late")));
    }
    assert_eq!(o.value("prices").await["a"], 10);
    // And what came too late is not what its next edit begins from.
    let next = json!({ "id": "r", "version": 6, "updated_at": o.at(-5), "a": 11 });
    o.one.push_one("prices", next).await.applied("prices", "r");
    assert_eq!(o.value("prices").await["a"], 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_belongs_to_one_live_record_of_a_store() {
    let o = office().await;
    let south = o.office.clerk("dora", "B").await;
    let eva = json!({ "id": "p1", "email": "eva@shop", "name": "Eva" });
    o.one.push_one("people", eva.clone()).await.applied("people", "p1");
    // A create that repeats the key: the server wins, with the other record's data.
    let clash = o.two.push_one("people", json!({ "id": "p2", "email": "eva@shop", "name": "Ewa" })).await.conflict("p2").clone();
    assert_eq!((&clash["winner"], &clash["reason"], &clash["status"]), (&json!("server"), &json!("unique"), &json!("resolved")));
    assert_eq!(
        (&clash["fields"], &clash["server_data"]["id"], &clash["server_data"]["name"]),
        (&json!(["email"]), &json!("p1"), &json!("Eva"))
    );
    assert_eq!((&clash["client_data"]["name"], &clash["client_data"]["id"]), (&json!("Ewa"), &json!("p2")));
    o.two.record("people", "p2").await.refused(404, "not_found");
    // Another store has its own keys.
    south.push_one("people", eva.clone()).await.rejected("p1");
    south.push_one("people", json!({ "id": "p3", "email": "eva@shop" })).await.applied("people", "p3");
    // An update onto another's key.
    o.two.push_one("people", json!({ "id": "p4", "email": "ida@shop" })).await.applied("people", "p4");
    for version in [2, 3, 4] {
        let record = json!({ "id": "p1", "version": version - 1, "email": "eva@shop", "n": version });
        o.one.push_one("people", record).await.applied("people", "p1");
    }
    let onto = o.two.push_one("people", json!({ "id": "p4", "version": 1, "email": "eva@shop" })).await;
    assert_eq!((&onto.conflict("p4")["reason"], &onto.conflict("p4")["server_data"]["id"]), (&json!("unique"), &json!("p1")));
    // The loser's own record is as it was, at its own version, and can be edited on from there.
    assert_eq!(onto.conflict("p4")["version"], 1);
    let on = o.two.push_one("people", json!({ "id": "p4", "version": 1, "email": "ida@shop", "name": "Ida" })).await;
    assert_eq!(on.applied("people", "p4")["version"], 2);
    // Saying again what was refused changes nothing, and says what is there instead.
    o.two.push_one("people", json!({ "id": "p4", "version": 2, "email": "eva@shop", "n": 1 })).await.conflict("p4");
    let again = json!({ "op_id": "again", "table": "people", "id": "p4", "op": "create", "data": { "email": "eva@shop", "n": 1 } });
    let noop = o.two.operate(again).await.applied("people", "p4").clone();
    assert_eq!((&noop["status"], &noop["data"]["email"]), (&json!("noop"), &json!("ida@shop")));
    // Freed by a change of key, and by a delete.
    o.one.push_one("people", json!({ "id": "p1", "version": 4, "email": "eva@home" })).await.applied("people", "p1");
    o.two.push_one("people", json!({ "id": "p4", "version": 2, "email": "eva@shop" })).await.applied("people", "p4");
    o.one.push_one("people", json!({ "id": "p1", "version": 5, "deleted": true })).await.applied("people", "p1");
    o.two.push_one("people", json!({ "id": "p5", "email": "eva@home" })).await.applied("people", "p5");
    // A deleted record does not take its key back by force.
    let back = o.one.push_one("people", json!({ "id": "p1", "version": 6, "email": "eva@home" })).await;
    assert_eq!(back.conflict("p1")["reason"], "unique");
    // Without the field there is no key.
    for id in ["q1", "q2"] {
        o.one.push_one("people", json!({ "id": id, "name": "x" })).await.applied("people", id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_table_does_not_allow() {
    let o = office().await;
    let entry = json!({ "id": "e", "sum": 5 });
    o.one.push_one("ledger", entry.clone()).await.applied("ledger", "e");
    assert_eq!(o.two.push_one("ledger", entry).await.applied("ledger", "e")["status"], "noop");
    for change in
        [json!({ "id": "e", "sum": 6 }), json!({ "id": "e", "version": 1, "sum": 6 }), json!({ "id": "e", "version": 1, "deleted": true })]
    {
        for device in [&o.one, &o.boss] {
            assert_eq!(device.push_one("ledger", change.clone()).await.rejected("e"), "immutable");
        }
    }
    for lacking in [json!({ "id": "s" }), json!({ "id": "s", "title": "x" }), json!({ "id": "s", "title": null, "kind": 1 })] {
        assert_eq!(o.one.push_one("strict", lacking).await.rejected("s"), "invalid_record");
    }
    let pushed = o.one.push_one("strict", json!({ "id": "s", "title": "", "kind": 0 })).await;
    pushed.applied("strict", "s");
    let removed =
        json!({ "op_id": "x", "table": "strict", "id": "s", "op": "update", "patch": { "kind": null }, "base": { "version": 1 } });
    assert_eq!(o.one.operate(removed).await.rejected("s"), "invalid_record");
}

/// Everything that a dry run must leave alone.
async fn traces(office: &Appliance) -> String {
    office
        .ask(
            "SELECT json_array((SELECT count(*) FROM changes), (SELECT max(seq) FROM changes), (SELECT count(*) FROM receipts),
                (SELECT count(*) FROM conflicts), (SELECT count(*) FROM rejections), (SELECT count(*) FROM unique_keys),
                (SELECT count(*) FROM feeds), (SELECT json_group_array(records) FROM feeds), (SELECT count(*) FROM evictions),
                (SELECT sum(changes) + sum(conflicts) FROM activity))",
        )
        .await
}

fn comparable(mut answer: Value) -> Value {
    for name in ["dry_run", "timestamp", "head"] {
        answer.as_object_mut().unwrap().remove(name);
    }
    for conflict in answer["conflicts"].as_array_mut().unwrap() {
        conflict["conflict_id"] = Value::Null;
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_what_a_push_then_answers_and_changes_nothing() {
    let o = office().await;
    for table in ["notes", "prices", "drafts", "cases"] {
        o.begin(table).await;
        o.two.push_one(table, json!({ "id": "r", "version": 1, "updated_at": o.at(-60), "a": 1, "b": 0 })).await.applied(table, "r");
    }
    o.two.push_one("people", json!({ "id": "p1", "email": "eva@shop" })).await.applied("people", "p1");
    let edit = |at: i64| json!({ "id": "r", "version": 1, "updated_at": o.at(at), "a": 2, "b": 2 });
    let made = o.at(-5);
    let push = json!({ "changes": {
        "notes": [edit(-30), { "id": "new", "x": 1 }, { "id": "new", "version": 1, "x": 2 }, { "id": "no id!" }],
        "prices": [edit(-30)], "drafts": [edit(-90)], "cases": [edit(-30), { "id": "r", "version": 1, "updated_at": o.at(-20), "a": 3 }],
        "people": [{ "id": "p2", "updated_at": made, "email": "eva@shop" }, { "id": "p3", "updated_at": made, "email": "new@shop" },
                   { "id": "p4", "updated_at": made, "email": "new@shop" }],
        "nowhere": [{ "id": "x" }],
    }, "operations": [
        { "op_id": "gone", "table": "notes", "id": "absent", "op": "update", "data": {}, "base": { "version": 4 } },
        { "op_id": "kill", "table": "notes", "id": "absent", "op": "delete" },
    ] });
    let mut dry = push.clone();
    dry["dry_run"] = json!(true);
    let (before, head) = (traces(&o.office).await, o.one.get("/api/v1/sync/status").await.ok()["cursor"].clone());
    let first = o.one.push(dry.clone()).await.0;
    let second = o.one.push(dry).await.0;
    assert_eq!((&first["dry_run"], &first["timestamp"]), (&json!(true), &second["timestamp"]));
    assert_eq!(traces(&o.office).await, before);
    assert_eq!(o.one.get("/api/v1/sync/status").await.ok()["cursor"], head);
    assert_eq!(o.boss.get("/api/v1/sync/devices/ben-1/rejected").await.ok()["rejected"], json!([]));
    o.one.record("people", "p3").await.refused(404, "not_found");
    assert!(
        first["conflicts"].as_array().unwrap().iter().all(|conflict| conflict["conflict_id"].is_null()),
        "an id that nobody can ask for"
    );
    let real = o.one.push(push).await.0;
    assert_eq!(comparable(first.clone()), comparable(second));
    assert_eq!(comparable(first), comparable(real.clone()));
    assert_eq!(real["conflicts"].as_array().unwrap().len(), 7, "{real}");
    assert_eq!(real["rejected"].as_array().unwrap().len(), 3, "{real}");
    assert_ne!(traces(&o.office).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atomic_push_is_all_or_nothing() {
    let o = office().await;
    o.begin("prices").await;
    o.begin("drafts").await;
    for table in ["prices", "drafts"] {
        o.two.push_one(table, json!({ "id": "r", "version": 1, "a": 1, "b": 0 })).await.applied(table, "r");
    }
    let good = json!([{ "id": "n1", "x": 1 }, { "id": "n2", "x": 2 }]);
    let loses = json!({ "id": "r", "version": 1, "a": 2, "b": 0 });
    let before = traces(&o.office).await;
    for changes in [
        json!({ "notes": good, "prices": [loses] }),
        json!({ "notes": good, "strict": [{ "id": "s" }] }),
        json!({ "nowhere": [{ "id": "s" }], "notes": good }),
    ] {
        let answer = o.one.try_push(json!({ "atomic": true, "changes": changes })).await;
        answer.refused(409, "batch_refused");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["success"], false);
        assert_eq!(answer.body["conflicts"].as_array().unwrap().len() + answer.body["rejected"].as_array().unwrap().len(), 1);
        assert!(answer.body["request_id"].as_str().is_some_and(|id| !id.is_empty()));
        assert_eq!(traces(&o.office).await, before);
    }
    // A conflict that the change wins is no refusal.
    let pushed = o.one.push(json!({ "atomic": true, "changes": { "notes": good, "drafts": [loses] } })).await;
    pushed.applied("notes", "n2");
    assert_eq!(pushed.conflict("r")["winner"], "client");
    // And a dry run of an atomic push tells the same.
    let dry = o.one.try_push(json!({ "atomic": true, "dry_run": true, "changes": { "prices": [loses] } })).await;
    dry.refused(409, "batch_refused");
}

/// A record that two others have changed since `one` saw version 1, in a table where the client loses.
async fn changed_by_others(o: &Office) -> (String, String) {
    o.begin("prices").await;
    let pulled = o.one.pull().await;
    let (cursor, time) = (pulled.cursor(), pulled.0["timestamp"].as_str().unwrap().to_owned());
    o.two.push_one("prices", json!({ "id": "r", "version": 1, "a": 1, "b": 0 })).await.applied("prices", "r");
    (cursor, time)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_base_tells_whether_others_came_between() {
    let hash = |json: &str| backroom::domain::record::Hash::of(json.as_bytes()).to_string();
    let (first, second) = (json!({ "a": 0, "b": 0 }), json!({ "a": 1, "b": 0 }));
    let operation =
        |base: Value| json!({ "op_id": "x", "table": "prices", "id": "r", "op": "update", "data": { "a": 5, "b": 5 }, "base": base });
    for (base, applied) in [
        (json!({ "version": 1 }), false),
        (json!({ "version": 2 }), true),
        (json!({ "version": 3 }), false),
        (json!({ "hash": hash(r#"{"a":0,"b":0}"#) }), false),
        (json!({ "hash": hash(r#"{"a":1,"b":0}"#) }), true),
        (json!({ "hash": hash("?") }), false),
        (json!({ "data": first }), false),
        (json!({ "data": second }), true),
        (json!({ "data": { "a": 1, "b": 0, "id": "r", "version": 2 } }), true),
        (json!({ "data": {} }), false),
        (Value::Null, false),
    ] {
        let o = office().await;
        changed_by_others(&o).await;
        let pushed = o.one.operate(operation(base.clone())).await;
        if applied {
            assert_eq!(pushed.applied("prices", "r")["version"], 3, "{base}");
        } else {
            assert_eq!(pushed.conflict("r")["winner"], "server", "{base}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_or_a_timestamp_or_the_last_pull_stands_in_for_a_base() {
    let change = || json!({ "prices": [{ "id": "r", "a": 5, "b": 5 }] });
    let o = office().await;
    let (old, old_time) = changed_by_others(&o).await;
    let pulled = o.one.pull().await;
    let (new, new_time) = (pulled.cursor(), pulled.0["timestamp"].as_str().unwrap().to_owned());
    for stale in [json!({ "cursor": old, "changes": change() }), json!({ "last_sync_timestamp": old_time, "changes": change() })] {
        assert_eq!(o.one.push(stale).await.conflict("r")["winner"], "server");
    }
    for (fresh, version) in [
        (json!({ "cursor": new, "changes": change() }), 3),
        (json!({ "last_sync_timestamp": new_time, "changes": { "prices": [{ "id": "r", "a": 6 }] } }), 4),
    ] {
        // The lost ones above were this device's own, and it never held what the server kept instead.
        let pushed = o.two.push(fresh).await;
        assert_eq!(pushed.applied("prices", "r")["version"], version);
    }
    // No cursor either: what the device last presented in a pull; and a device that never pulled begins from nothing.
    let o = office().await;
    changed_by_others(&o).await;
    assert_eq!(o.one.push(json!({ "changes": change() })).await.conflict("r")["winner"], "server");
    let o = office().await;
    changed_by_others(&o).await;
    let pulled = o.one.pull().await;
    let idle = o.one.pull_with(json!({ "cursor": pulled.cursor() })).await;
    assert_eq!(idle.ids().len(), 0);
    assert_eq!(o.one.push(json!({ "changes": change() })).await.applied("prices", "r")["version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_within_an_unfinished_reset_or_before_the_database_tells_nothing() {
    let o = office().await;
    o.begin("prices").await;
    o.boss.push_one("prices", json!({ "id": "q" })).await.applied("prices", "q");
    let page = o.one.pull_with(json!({ "limit": 1 })).await;
    assert_eq!(page.0["has_more"], true);
    let change = json!({ "prices": [{ "id": "r", "a": 5 }] });
    assert_eq!(o.one.push(json!({ "cursor": page.cursor(), "changes": change })).await.conflict("r")["winner"], "server");
    let ancient = json!({ "last_sync_timestamp": "1999-01-01T00:00:00Z", "changes": change });
    assert_eq!(o.two.push(ancient).await.conflict("r")["winner"], "server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_is_laid_over_its_base_and_the_answer_shows_the_whole() {
    let o = office().await;
    o.begin("prices").await;
    let patch = |op: &str, base: Value, patch: Value| json!({ "op_id": op, "table": "prices", "id": "r", "op": "update", "patch": patch, "base": base });
    let pushed = o.one.operate(patch("1", json!({ "version": 1 }), json!({ "b": null, "c": { "d": 1 } }))).await;
    let data = &pushed.applied("prices", "r")["data"];
    assert_eq!((&data["a"], data.get("b"), &data["c"]["d"], &data["version"]), (&json!(0), None, &json!(1), &json!(2)));
    // Over an older base it claims no field that came since: at record granularity that is a conflict.
    let pushed = o.two.operate(patch("2", json!({ "version": 1 }), json!({ "a": 9 }))).await;
    let conflict = pushed.conflict("r");
    assert_eq!(conflict["client_data"]["a"], 9);
    assert_eq!((&conflict["client_data"]["b"], conflict["client_data"].get("c")), (&json!(0), None));
    let pushed = o.two.operate(patch("3", json!({ "data": { "a": 0, "c": { "d": 1 } } }), json!({ "c": { "e": 2 } }))).await;
    assert_eq!(pushed.applied("prices", "r")["data"]["c"], json!({ "d": 1, "e": 2 }));
}

fn big(id: &str, bytes: usize) -> Value {
    json!({ "id": id, "text": "x".repeat(bytes) })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_change_lands_in_rejected_and_its_neighbours_are_applied() {
    let office = Appliance::start().await;
    let till = office.clerk("ben", "A").await;
    let good = |id: &str| format!(r#"{{"id":"{id}","x":1}}"#);
    let mib = 1 << 20;
    let (large, fits) = (big("bad", mib).to_string(), big("fits", mib - 40).to_string());
    let deep = format!(r#"{{"id":"bad","x":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
    let bad: Vec<(&str, &str)> = vec![
        (r#"{"id":"a b"}"#, "invalid_record"),
        (r#"{"id":""}"#, "invalid_record"),
        (r#"{"id":7}"#, "invalid_record"),
        (r#"{"x":1}"#, "invalid_record"),
        ("7", "invalid_record"),
        ("null", "invalid_record"),
        ("[]", "invalid_record"),
        (r#""text""#, "invalid_record"),
        (r#"{"id":"bad","x":1,"x":2}"#, "invalid_record"),
        (r#"{"id":"bad","x":{"y":1,"y":1}}"#, "invalid_record"),
        (r#"{"id":"bad","updated_at":"yesterday"}"#, "invalid_record"),
        (r#"{"id":"bad","updated_at":7}"#, "invalid_record"),
        (r#"{"id":"bad","version":"1"}"#, "invalid_record"),
        (r#"{"id":"bad","version":-1}"#, "invalid_record"),
        (r#"{"id":"bad","deleted":"yes"}"#, "invalid_record"),
        (r#"{"id":"bad","n":1e999}"#, "invalid_record"),
        (r#"{"id":"bad","store_id":"B"}"#, "forbidden"),
        (r#"{"id":"bad","store_id":7}"#, "invalid_record"),
        (r#"{"id":"bad","version":3}"#, "gone"),
        (&large, "payload_too_large"),
        (&deep, "invalid_record"),
    ];
    for (place, (record, code)) in bad.iter().enumerate() {
        let (before, after) = (format!("b{place}"), format!("a{place}"));
        let body = format!(r#"{{"changes":{{"submissions":[{},{record},{}]}}}}"#, good(&before), good(&after));
        let request = till.request(reqwest::Method::POST, "/api/v1/sync/push").header("content-type", "application/json").body(body);
        let pushed = Pushed(till.send(request).await.ok());
        pushed.applied("submissions", &before);
        pushed.applied("submissions", &after);
        let rejected = pushed.0["rejected"].as_array().unwrap();
        assert_eq!((rejected.len(), &rejected[0]["code"]), (1, &json!(code)), "{record:.100}: {}", rejected[0]);
        assert_eq!(rejected[0]["table"], "submissions");
        assert!(!rejected[0]["detail"].as_str().unwrap().is_empty());
        // Kept, newest first, with what was sent.
        let kept = till.get(&format!("/api/v1/sync/devices/{}/rejected?limit=1", till.id)).await.ok()["rejected"][0].clone();
        assert_eq!((&kept["code"], &kept["times"]), (&json!(code), &json!(1)), "{kept:.200}");
        assert!(record.starts_with(kept["body"].as_str().unwrap()) && kept["body"].as_str().unwrap().len() == record.len().min(64 << 10));
    }
    let pushed = Pushed(till.push(json!({ "changes": { "submissions": [serde_json::from_str::<Value>(&fits).unwrap()] } })).await.0);
    pushed.applied("submissions", "fits");
    // Tables: unknown, no name at all, and not this device's to write.
    let pushed = till
        .push(json!({ "changes": { "invoices": [{ "id": "i" }], "No Table": [{ "id": "n" }], "forms": [{ "id": "f" }], "submissions": [{ "id": "ok" }] } }))
        .await;
    pushed.applied("submissions", "ok");
    assert_eq!((pushed.rejected("i"), pushed.rejected("n"), pushed.rejected("f")), ("unknown_table", "unknown_table", "forbidden"));
    // The same in the other form of a push.
    for (operation, code) in [
        (json!({ "table": "submissions", "id": "o", "op": "upsert", "data": {} }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create" }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create", "data": {}, "patch": {} }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "update", "data": { "id": "p" } }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "update", "data": {}, "base": 7 }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "update", "data": {}, "base": { "hash": "x" } }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "update", "data": {}, "base": { "version": 1, "data": {} } }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create", "data": {}, "op_id": "" }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create", "data": {}, "op_id": "x".repeat(129) }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create", "data": {}, "op_id": 7 }), "invalid_record"),
        (json!({ "table": "submissions", "id": "o", "op": "create", "data": big("o", mib) }), "payload_too_large"),
        (json!({ "table": "invoices", "id": "o", "op": "delete" }), "unknown_table"),
        (json!({ "id": "o", "op": "delete" }), "invalid_record"),
        (json!(7), "invalid_record"),
    ] {
        let good = json!({ "table": "submissions", "id": "g", "op": "create", "data": { "x": 1 } });
        let pushed = till.push(json!({ "operations": [good, operation] })).await;
        pushed.applied("submissions", "g");
        assert_eq!(pushed.0["rejected"][0]["code"], code, "{operation:.200}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_changes_are_kept_a_bounded_number_a_device_and_shown_to_whom_they_concern() {
    let office = Appliance::start().await;
    let (till, other, boss) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await, office.boss("anna").await);
    other.push_one("forms", json!({ "id": "mine" })).await.rejected("mine");
    let many: Vec<Value> = (0..1_005).map(|n| json!({ "id": format!("f{n}") })).collect();
    let pushed = till.push(json!({ "changes": { "forms": many } })).await;
    assert_eq!(pushed.0["rejected"].as_array().unwrap().len(), 1_005);
    // The same again counts up and pushes nothing out.
    till.push(json!({ "changes": { "forms": [{ "id": "f1004" }] } })).await;
    let (mut ids, mut path) = (Vec::new(), format!("/api/v1/sync/devices/{}/rejected?limit=400", till.id));
    loop {
        let page = boss.get(&path).await.ok();
        ids.extend(page["rejected"].as_array().unwrap().iter().map(|r| (r["record_id"].as_str().unwrap().to_owned(), r["times"].clone())));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/sync/devices/{}/rejected?limit=400&after={next}", till.id),
            None => break,
        }
    }
    let expected: Vec<_> = (5..1_005).rev().map(|n| (format!("f{n}"), json!(if n == 1_004 { 2 } else { 1 }))).collect();
    assert_eq!(ids, expected);
    assert_eq!(boss.get(&format!("/api/v1/sync/devices/{}", till.id)).await.ok()["rejected"], 1_000);
    assert_eq!(other.get(&format!("/api/v1/sync/devices/{}/rejected", other.id)).await.ok()["rejected"].as_array().unwrap().len(), 1);
    // Another user's device is hidden, as an absent one is.
    let (hidden, absent) =
        (other.get(&format!("/api/v1/sync/devices/{}/rejected", till.id)).await, other.get("/api/v1/sync/devices/nobody/rejected").await);
    hidden.refused(404, "not_found");
    assert_eq!(crate::support::quick::without_request_id(&hidden.text), crate::support::quick::without_request_id(&absent.text));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_programs_write_what_programs_write() {
    let rules = "[tables.feed]\nwrite = \"service\"\n[tables.notes]\n[tables.plans]\nwrite = \"manager\"\n";
    let office = Appliance::with(rules).await;
    let program = office.someone("erp", Role::Service, &[]).await;
    let (till, boss, chief) = (office.clerk("ben", "A").await, office.boss("anna").await, office.chief("root").await);
    for (device, tables) in
        [(&program, [true, false, false]), (&till, [false, true, false]), (&boss, [false, true, true]), (&chief, [false, true, true])]
    {
        for (table, may) in ["feed", "notes", "plans"].into_iter().zip(tables) {
            let pushed = device.push_one(table, json!({ "id": device.id })).await;
            if may { drop(pushed.applied(table, &device.id).clone()) } else { assert_eq!(pushed.rejected(&device.id), "forbidden") }
        }
    }
    assert_eq!(till.pull().await.ids(), ["feed/erp-1", "notes/ben-1", "notes/anna-1", "notes/root-1", "plans/anna-1", "plans/root-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_a_change_that_joined_an_open_conflict_is_answered_with_it() {
    let office = Appliance::with("[tables.cases]\nrule = \"manual\"").await;
    let (one, two) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let change = |op: &str, base: i64, data: Value| json!({ "op_id": op, "table": "cases", "id": "r", "op": "update", "base": { "version": base }, "data": data });
    two.push_one("cases", json!({ "id": "r", "u": 1, "w": 1 })).await.applied("cases", "r");
    two.operate(change("a", 1, json!({ "u": 2, "w": 1 }))).await.applied("cases", "r");
    let first = one.operate(change("j1", 1, json!({ "u": 3, "w": 1 }))).await.conflict("r").clone();
    // The later one also brings something that is not in conflict, so it leaves a version of its own.
    let joined = change("j2", 1, json!({ "u": 4, "w": 5 }));
    let second = one.operate(joined.clone()).await.conflict("r").clone();
    assert_eq!((&second["conflict_id"], &second["version"]), (&first["conflict_id"], &json!(3)));
    let again = one.operate(joined).await.conflict("r").clone();
    assert_eq!((&again["conflict_id"], &again["status"], &again["client_data"]["u"]), (&first["conflict_id"], &json!("open"), &json!(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn having_sent_the_same_does_not_make_anothers_record_ones_own() {
    let office = Appliance::with("[tables.attempts]\nrule = \"server_wins\"").await;
    let (one, two) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let create = |score: i64| json!({ "table": "attempts", "id": "r", "op": "create", "data": { "score": score } });
    one.operate(create(5)).await.applied("attempts", "r");
    assert_eq!(two.operate(create(5)).await.applied("attempts", "r")["status"], "noop");
    assert_eq!(two.operate(create(100)).await.conflict("r")["winner"], "server");
    assert_eq!(two.record("attempts", "r").await.ok()["record"]["score"], 5);
}
