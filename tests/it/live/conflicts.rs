//! News of conflicts: for managers and for whoever sees what they are about, but not for the device that caused them.

use backroom::domain::actor::Role;
use serde_json::{Value, json};

use super::{RULES, ring};
use crate::support::quick::at;
use crate::support::socket::Socket;
use crate::support::{Appliance, Device};

struct Office {
    office: Appliance,
    bell: Device,
    boss: Device,
    ben: Device,
    cleo: Device,
    dora: Device,
}

/// Who listens, by name.
struct Ears(Vec<(&'static str, Socket)>);

async fn begin() -> (Office, Ears) {
    let office = Appliance::with(RULES).await;
    let (bell, boss) = (office.chief("bell").await, office.boss("anna").await);
    let (ben, cleo, dora) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await, office.clerk("dora", "B").await);
    let (tim, second) = (office.someone("tim", Role::Store, &["A", "B"]).await, office.enrolled("cleo", "2").await);
    let mut ears = Vec::new();
    let all = [("boss", &boss), ("ben", &ben), ("cleo", &cleo), ("cleo2", &second), ("dora", &dora), ("tim", &tim)];
    for (name, device) in all {
        ears.push((name, Socket::open(device).await));
    }
    (Office { office, bell, boss, ben, cleo, dora }, Ears(ears))
}

impl Ears {
    /// Who was told of conflicts since the last bell, and what (all the same).
    async fn told(&mut self, o: &Office, bell: &str) -> (Vec<&'static str>, Vec<Value>) {
        ring(&o.bell, bell).await;
        let (mut who, mut what) = (Vec::new(), None);
        for (name, socket) in &mut self.0 {
            // News of conflicts follow the changes that came together with them, so a further bell ends them.
            let mut heard = socket.until("bells", bell).await.conflicts;
            socket.send(r#"{"type":"ping","id":1}"#).await;
            while let Ok(message) = socket.next().await {
                match message["type"].as_str().unwrap() {
                    "conflict_notification" => heard.push(message["payload"].clone()),
                    "pong" => break,
                    _ => {}
                }
            }
            if !heard.is_empty() {
                assert_eq!(*what.get_or_insert(heard.clone()), heard, "{name}");
                who.push(*name);
            }
        }
        (who, what.unwrap_or_default())
    }
}

impl Office {
    async fn edit(&self, device: &Device, table: &str, seconds: i64, n: i64) -> Value {
        let record = json!({ "id": "r", "version": 1, "store_id": "A", "n": n, "updated_at": at(&self.office, -seconds) });
        let pushed = device.push_one(table, record).await.0;
        pushed["conflicts"].get(0).cloned().unwrap_or(Value::Null)
    }

    /// Two tills edit one record of store A.
    async fn clash(&self, table: &str) -> String {
        let record = json!({ "id": "r", "store_id": "A", "n": 0, "updated_at": at(&self.office, -3600) });
        self.ben.push_one(table, record).await.applied(table, "r");
        assert_eq!(self.edit(&self.ben, table, 60, 1).await, Value::Null);
        self.edit(&self.cleo, table, 30, 2).await["conflict_id"].as_str().unwrap().to_owned()
    }

    async fn resolve(&self, by: &Device, id: &str, body: Value) {
        by.post(&format!("/api/v1/sync/conflicts/{id}/resolve"), body).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_told_when_it_comes_grows_is_resolved_and_reverted() {
    let (o, mut ears) = begin().await;
    let id = o.clash("cases").await;
    let (who, what) = ears.told(&o, "b1").await;
    assert_eq!(who, ["boss", "ben", "cleo2", "tim"]);
    let news = json!({ "conflict_id": id, "table": "cases", "record_id": "r", "status": "open", "suggested_resolution": "use_client" });
    assert_eq!(what, [news]);

    // Another edit by the same device joins it.
    let joined = o.edit(&o.cleo, "cases", 20, 3).await;
    assert_eq!(joined["conflict_id"], id.as_str());
    let (who, what) = ears.told(&o, "b2").await;
    assert_eq!((who, &what[0]["conflict_id"], &what[0]["status"]), (vec!["boss", "ben", "cleo2", "tim"], &json!(id), &json!("open")));

    o.resolve(&o.boss, &id, json!({ "resolution": "use_client" })).await;
    let (who, what) = ears.told(&o, "b3").await;
    assert_eq!(who, ["ben", "cleo", "cleo2", "tim"], "the manager's device has its answer");
    assert_eq!((&what[0]["conflict_id"], &what[0]["status"]), (&json!(id), &json!("resolved")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverted_decision_is_told_again() {
    let (o, mut ears) = begin().await;
    let (before, now) = (at(&o.office, -60), at(&o.office, -30));
    o.ben.push_one("news", json!({ "id": "r", "a": 0, "updated_at": at(&o.office, -3600) })).await.applied("news", "r");
    for (device, n, time) in [(&o.ben, 1, before), (&o.cleo, 2, now)] {
        device.push_one("news", json!({ "id": "r", "version": 1, "a": n, "updated_at": time })).await;
    }
    let (who, what) = ears.told(&o, "b1").await;
    assert_eq!(who, ["boss", "ben", "cleo2", "dora", "tim"], "an office table is everybody's");
    assert_eq!(what[0]["status"], "resolved", "the rule decided it");
    let id = what[0]["conflict_id"].as_str().unwrap().to_owned();
    o.resolve(&o.boss, &id, json!({ "resolution": "use_server", "revert": true })).await;
    let (who, what) = ears.told(&o, "b2").await;
    assert_eq!((who, &what[0]["conflict_id"]), (vec!["ben", "cleo", "cleo2", "dora", "tim"], &json!(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_to_a_record_that_left_the_view_is_the_managers_alone() {
    let (o, mut ears) = begin().await;
    o.ben.push_one("cases", json!({ "id": "r", "n": 0, "updated_at": at(&o.office, -3600) })).await.applied("cases", "r");
    o.boss.push_one("cases", json!({ "id": "r", "version": 1, "store_id": "B", "n": 0 })).await.applied("cases", "r");
    ears.told(&o, "b1").await;
    assert_eq!(o.edit(&o.cleo, "cases", 30, 2).await["reason"], "left_view");
    let (who, what) = ears.told(&o, "b2").await;
    assert_eq!((who, what.len()), (vec!["boss"], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_of_hidden_tables_and_of_ones_own_records_stay_there() {
    let (o, mut ears) = begin().await;
    o.clash("vault").await;
    assert_eq!(ears.told(&o, "b1").await.0, ["boss"], "a table that managers read");
    // A user's own records: two devices of one person.
    let first = o.office.enrolled("cleo", "3").await;
    let record = json!({ "id": "l", "n": 0, "updated_at": at(&o.office, -3600) });
    first.push_one("logs", record).await.applied("logs", "l");
    for (device, n) in [(&first, 1), (&o.cleo, 2)] {
        device.push_one("logs", json!({ "id": "l", "version": 1, "n": n, "updated_at": at(&o.office, -60 + n) })).await;
    }
    assert_eq!(ears.told(&o, "b2").await.0, ["boss", "cleo2"]);
    // Somebody of another store is told of nothing that was A's alone.
    o.dora.push_one("cases", json!({ "id": "d", "n": 0 })).await.applied("cases", "d");
    assert_eq!(ears.told(&o, "b3").await.0, Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conflicts_at_once_are_named_as_far_as_there_is_room_and_then_counted() {
    let (o, ears) = begin().await;
    let (old, mid, new) = (at(&o.office, -3600), at(&o.office, -60), at(&o.office, -30));
    let records = |version: i64, n: i64, time: &str| -> Vec<Value> {
        (0..200).map(|no| json!({ "id": format!("m{no}"), "version": version, "n": n, "updated_at": time })).collect()
    };
    for (device, version, n, time) in [(&o.ben, 0, 0, &old), (&o.ben, 1, 1, &mid), (&o.cleo, 1, 2, &new)] {
        device.push(json!({ "changes": { "cases": records(version, n, time) } })).await;
    }
    let mut boss = ears.0.into_iter().next().unwrap().1;
    let (mut named, mut counted) = (0, 0);
    while named + counted < 200 {
        let message = boss.next().await.unwrap();
        if message["type"] == "conflict_notification" {
            match message["payload"]["count"].as_i64() {
                Some(count) => counted += count,
                None => named += 1,
            }
        }
    }
    assert_eq!((named, counted), (64, 136));
}
