//! Exactly those are told of a change whose view holds the record, and never the device that made it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use backroom::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::{RULES, listening, ring};
use crate::support::socket::{Heard, Named, Socket, ticket};
use crate::support::{Appliance, Device};

/// Somebody who listens, as the test knows them.
#[derive(Clone)]
struct Person {
    user: &'static str,
    role: Role,
    stores: &'static [&'static str],
}

const PEOPLE: [(Person, usize); 9] = [
    (Person { user: "ann", role: Role::Store, stores: &["A"] }, 150),
    (Person { user: "abe", role: Role::Store, stores: &["A"] }, 100),
    (Person { user: "bea", role: Role::Store, stores: &["B"] }, 150),
    (Person { user: "tim", role: Role::Store, stores: &["A", "B"] }, 150),
    (Person { user: "cyd", role: Role::Store, stores: &["C"] }, 100),
    (Person { user: "liz", role: Role::Store, stores: &["A", "C", "E"] }, 50),
    (Person { user: "srv", role: Role::Service, stores: &[] }, 50),
    (Person { user: "max", role: Role::Manager, stores: &[] }, 130),
    (Person { user: "kim", role: Role::Admin, stores: &[] }, 120),
];

impl Person {
    /// Written after SEMANTICS, not after the code: does this person see records of this scope value?
    fn sees(&self, table: &str, scope: &str) -> bool {
        let all = self.role != Role::Store;
        match table {
            "news" | "bells" | "feeds" => true,
            "visits" => all || self.stores.contains(&scope),
            "diaries" => all || self.user == scope,
            "audits" | "box" => matches!(self.role, Role::Manager | Role::Admin),
            _ => unreachable!(),
        }
    }
}

/// A record as it is.
#[derive(Clone)]
struct Now {
    scope: String,
    version: i64,
    deleted: bool,
}

/// A generator of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Who listens, and what they have to be told.
#[derive(Default)]
struct Told(HashMap<usize, Vec<Named>>);

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_exactly_those_of_a_thousand_sockets_whose_view_holds_it() {
    let office = Appliance::with(RULES).await;
    let bell = office.chief("bell").await;
    let mut devices: Vec<(Person, Device)> = Vec::new();
    for (person, count) in PEOPLE {
        drop(office.someone(person.user, person.role, person.stores).await);
        devices.extend(office.crowd(person.user, count).await.into_iter().map(|device| (person.clone(), device)));
    }
    assert_eq!(devices.len(), 1_000);
    // Twenty devices have a second socket.
    let owners: Vec<usize> = (0..1_000).chain((0..1_000).step_by(50)).collect();
    let mut sockets = Vec::new();
    for some in owners.chunks(100) {
        sockets.extend(futures_util::future::join_all(some.iter().map(|no| Socket::open(&devices[*no].1))).await);
    }
    assert_eq!(office.app.hub.count(), 1_020);

    let (mut dice, mut records, mut told) = (Dice(4), BTreeMap::<(&str, usize), Now>::new(), Told::default());
    let mut moves = 0;
    for step in 0..48 {
        let table = ["news", "visits", "visits", "visits", "diaries", "audits", "box", "feeds"][dice.roll(8)];
        let no = dice.roll(3);
        let (id, now) = (format!("{table}-{no}"), records.get(&(table, no)).cloned());
        // Whoever may write it as it is.
        let may = |person: &Person| match table {
            "feeds" => person.role == Role::Service,
            _ if person.role == Role::Service => false,
            "diaries" => now.as_ref().is_none_or(|now| now.scope == person.user),
            "visits" | "audits" => {
                person.role != Role::Store || person.stores.contains(&now.as_ref().map_or(person.stores[0], |now| now.scope.as_str()))
            }
            _ => true,
        };
        // A blind write to what one does not see would be a conflict of another story.
        let may = |person: &Person| may(person) && (now.is_none() || person.sees(table, &now.as_ref().unwrap().scope));
        let writers: Vec<usize> = (0..1_000).filter(|no| may(&devices[*no].0)).collect();
        let author = writers[dice.roll(writers.len())];
        let (person, device) = &devices[author];
        let stores = ["A", "B", "C", "D", "E"];
        let old = now.as_ref().map(|now| now.scope.clone());
        let scope = match table {
            "visits" | "audits" if person.role == Role::Store => old.clone().unwrap_or_else(|| person.stores[0].into()),
            "visits" | "audits" => stores[dice.roll(5)].to_owned(),
            "diaries" => person.user.to_owned(),
            _ => String::new(),
        };
        let deleted = now.as_ref().is_some_and(|now| !now.deleted) && dice.roll(5) == 0;
        let mut record = json!({ "id": id, "step": step });
        if let Some(now) = &now {
            record["version"] = json!(now.version);
        }
        if ["visits", "audits"].contains(&table) {
            record["store_id"] = json!(scope);
        }
        if deleted {
            record = json!({ "id": id, "version": record["version"], "deleted": true });
        }
        let version = device.push_one(table, record).await.applied(table, &id)["version"].as_i64().unwrap();
        let scope = if deleted { old.clone().unwrap() } else { scope };
        let operation = match &now {
            _ if deleted => "delete",
            Some(now) if !now.deleted => "update",
            _ => "create",
        };
        moves += usize::from(old.as_ref().is_some_and(|old| *old != scope));
        for (place, owner) in owners.iter().enumerate().filter(|(_, owner)| **owner != author) {
            let person = &devices[*owner].0;
            let named = |operation: &str, version| Named { table: table.into(), id: id.clone(), operation: operation.into(), version };
            if person.sees(table, &scope) {
                told.0.entry(place).or_default().push(named(operation, Some(version)));
            } else if old.as_ref().is_some_and(|old| person.sees(table, old)) {
                told.0.entry(place).or_default().push(named("evict", None));
            }
        }
        records.insert((table, no), Now { scope, version, deleted });
    }
    assert!(moves > 3, "{moves} moves");
    ring(&bell, "end").await;
    let told = Arc::new(told);
    let reading = sockets.into_iter().enumerate().map(|(place, mut socket)| {
        let (told, who) = (told.clone(), devices[owners[place]].1.id.clone());
        tokio::spawn(async move {
            let Heard { mut named, counted, .. } = socket.until("bells", "end").await;
            named.retain(|named| named.table != "bells");
            let mut due = told.0.get(&place).cloned().unwrap_or_default();
            named.sort();
            due.sort();
            assert_eq!((named, counted), (due, Vec::new()), "{who}");
        })
    });
    for done in futures_util::future::join_all(reading).await {
        done.unwrap();
    }
    listening(&office, 0).await;
}

/// Two of store A, one of B, one of both, a manager, and the bell.
struct Office {
    office: Appliance,
    bell: Device,
    boss: Device,
    ben: Device,
    cleo: Device,
    dora: Device,
    tim: Device,
}

async fn office() -> Office {
    let office = Appliance::with(RULES).await;
    let (bell, boss) = (office.chief("bell").await, office.boss("anna").await);
    let (ben, cleo, dora) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await, office.clerk("dora", "B").await);
    let tim = office.someone("tim", Role::Store, &["A", "B"]).await;
    Office { office, bell, boss, ben, cleo, dora, tim }
}

fn named(table: &str, id: &str, operation: &str, version: Option<i64>) -> Named {
    Named { table: table.into(), id: id.into(), operation: operation.into(), version }
}

impl Office {
    /// What each was told until now, beside bells.
    async fn told<const N: usize>(&self, sockets: [&mut Socket; N], bell: &str) -> [Vec<Named>; N] {
        ring(&self.bell, bell).await;
        let heard = sockets.map(|socket| async {
            let mut heard = socket.until("bells", bell).await;
            assert!(heard.counted.is_empty() && heard.conflicts.is_empty(), "{heard:?}");
            heard.named.retain(|named| named.table != "bells");
            heard.named
        });
        futures_util::future::join_all(heard).await.try_into().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_an_eviction_where_the_record_was_and_one_hint_where_both_are_seen() {
    let o = office().await;
    let mut sockets = [Socket::open(&o.cleo).await, Socket::open(&o.dora).await, Socket::open(&o.tim).await, Socket::open(&o.boss).await];
    o.ben.push_one("visits", json!({ "id": "v" })).await.applied("visits", "v");
    let made = named("visits", "v", "create", Some(1));
    let told = o.told(sockets.each_mut(), "b1").await;
    assert_eq!(told, [vec![made.clone()], vec![], vec![made.clone()], vec![made]]);

    o.boss.push_one("visits", json!({ "id": "v", "version": 1, "store_id": "B" })).await.applied("visits", "v");
    let moved = named("visits", "v", "update", Some(2));
    let told = o.told(sockets.each_mut(), "b2").await;
    assert_eq!(told, [vec![named("visits", "v", "evict", None)], vec![moved.clone()], vec![moved], vec![]]);

    o.dora.push_one("visits", json!({ "id": "v", "version": 2, "deleted": true })).await.applied("visits", "v");
    let gone = named("visits", "v", "delete", Some(3));
    let told = o.told(sockets.each_mut(), "b3").await;
    assert_eq!(told, [vec![], vec![], vec![gone.clone()], vec![gone]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_tells_nobody() {
    let o = office().await;
    let mut sockets = [Socket::open(&o.cleo).await, Socket::open(&o.boss).await];
    o.ben.push_one("visits", json!({ "id": "v", "n": 1 })).await.applied("visits", "v");
    o.told(sockets.each_mut(), "b1").await;
    let bodies = [
        // A dry run, a refused atomic push, the same again, an unknown table, a table that one may not write.
        json!({ "dry_run": true, "changes": { "visits": [{ "id": "w" }] } }),
        json!({ "atomic": true, "changes": { "visits": [{ "id": "x" }], "nowhere": [{ "id": "y" }] } }),
        json!({ "changes": { "visits": [{ "id": "v", "version": 1, "n": 1 }] } }),
        json!({ "changes": { "nowhere": [{ "id": "v" }] } }),
        json!({ "changes": { "feeds": [{ "id": "v" }] } }),
        json!({ "changes": { "visits": [{ "id": "" }] } }),
        json!({ "changes": { "visits": [{ "id": "w", "store_id": "B" }] } }),
    ];
    for body in bodies {
        let answer = o.ben.try_push(body.clone()).await;
        assert!(
            answer.body["applied"]["visits"]
                .as_array()
                .is_none_or(|all| all.iter().all(|one| one["status"] != "applied") || body["dry_run"] == true || body["atomic"] == true),
            "{body}: {}",
            answer.text
        );
    }
    assert_eq!(o.told(sockets.each_mut(), "b2").await, [vec![], vec![]]);
    let op = json!({ "operations": [{ "op_id": "once", "table": "visits", "id": "o", "op": "create", "data": { "id": "o" } }] });
    for _ in 0..3 {
        o.ben.push(op.clone()).await;
    }
    let made = vec![named("visits", "o", "create", Some(1))];
    assert_eq!(o.told(sockets.each_mut(), "b3").await, [made.clone(), made], "a retry tells nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_in_browsers_are_told_of_what_they_see_also_of_their_own_devices_changes() {
    let o = office().await;
    o.office.user("mia", Role::Store, &["B"]).await;
    let till = o.office.enrolled("mia", "1").await;
    let cookie = o.office.sign_in("mia").await;
    let stranger = Device::stranger(o.office.address);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(Socket::by_ticket(o.office.address, &ticket(&stranger, Some(&cookie)).await).await);
    }
    let mut sockets: [Socket; 2] = sockets.try_into().ok().unwrap();
    till.push_one("visits", json!({ "id": "m" })).await.applied("visits", "m");
    o.ben.push_one("visits", json!({ "id": "a" })).await.applied("visits", "a");
    let made = vec![named("visits", "m", "create", Some(1))];
    assert_eq!(o.told(sockets.each_mut(), "b").await, [made.clone(), made]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_version_is_told_to_all() {
    let o = office().await;
    for version in 0..2 {
        o.ben.push_one("visits", json!({ "id": "v", "version": version, "n": version })).await.applied("visits", "v");
    }
    let mut sockets = [Socket::open(&o.ben).await, Socket::open(&o.boss).await, Socket::open(&o.dora).await];
    let path = "/api/v1/records/visits/v/history/1/restore";
    o.bell.call(Method::POST, path, Some(json!({ "version": 2 }))).await.ok();
    let told = o.told(sockets.each_mut(), "b").await;
    let restored = vec![named("visits", "v", "update", Some(3))];
    assert_eq!(told, [restored.clone(), restored, vec![]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_narrows_and_never_widens_the_view() {
    let o = office().await;
    let mut socket = Socket::open(&o.ben).await;
    let everything = ["bells", "board", "cases", "diaries", "feeds", "logs", "news", "visits"];
    let tables = |answer: (String, Value)| -> Vec<String> {
        assert_eq!(answer.0, "subscribed", "{}", answer.1);
        let mut names: Vec<String> = answer.1["tables"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    let push = async |id: &str| {
        for table in ["news", "visits"] {
            o.cleo.push_one(table, json!({ "id": id })).await.applied(table, id);
        }
        o.dora.push_one("visits", json!({ "id": format!("b{id}") })).await;
    };
    assert_eq!(tables(socket.ask("subscribe", json!({})).await), everything);
    push("1").await;
    let (news, visits) = (|id| named("news", id, "create", Some(1)), |id| named("visits", id, "create", Some(1)));
    assert_eq!(o.told([&mut socket], "b1").await, [[news("1"), visits("1")]]);
    // The first tables to be named are the first to be left; more are added.
    assert_eq!(tables(socket.ask("subscribe", json!({ "tables": ["visits"] })).await), ["visits"]);
    assert_eq!(tables(socket.ask("subscribe", json!({ "tables": ["bells"] })).await), ["bells", "visits"]);
    push("2").await;
    assert_eq!(o.told([&mut socket], "b2").await, [[visits("2")]]);
    assert_eq!(tables(socket.ask("unsubscribe", json!({ "tables": ["visits"] })).await), ["bells"]);
    push("3").await;
    assert_eq!(o.told([&mut socket], "b3").await, [[]]);
    for (hidden, code) in [("audits", "forbidden"), ("vault", "forbidden"), ("nowhere", "unknown_table")] {
        for kind in ["subscribe", "unsubscribe"] {
            let (kind, problem) = socket.ask(kind, json!({ "tables": ["news", hidden] })).await;
            assert_eq!((kind.as_str(), &problem["code"]), ("error", &json!(code)), "{hidden}");
        }
    }
    assert_eq!(tables(socket.ask("subscribe", json!({})).await), everything);
    push("4").await;
    assert_eq!(o.told([&mut socket], "b4").await, [[news("4"), visits("4")]]);
    assert_eq!(tables(socket.ask("unsubscribe", json!({ "tables": ["news"] })).await).len(), everything.len() - 1);
    assert_eq!(tables(socket.ask("unsubscribe", json!({})).await), Vec::<String>::new());
    push("5").await;
    ring(&o.bell, "b5").await;
    assert_eq!(tables(socket.ask("subscribe", json!({ "tables": ["bells"] })).await), ["bells"]);
    assert_eq!(o.told([&mut socket], "b6").await, [[]], "what happened meanwhile is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_sixty_four_changes_of_a_table_are_only_counted() {
    let o = office().await;
    let mut socket = Socket::open(&o.cleo).await;
    for (count, prefix) in [(64, "n"), (65, "c"), (1_000, "m")] {
        let records: Vec<Value> = (0..count).map(|no| json!({ "id": format!("{prefix}{no}") })).collect();
        o.ben.push(json!({ "changes": { "visits": records, "news": [{ "id": format!("{prefix}-news") }] } })).await;
        let hint = socket.hint().await;
        let told = &hint["tables"]["visits"];
        match count {
            64 => assert_eq!(told.as_array().unwrap().len(), 64, "{hint}"),
            count => assert_eq!(*told, json!(count), "{hint}"),
        }
        assert_eq!(hint["tables"]["news"], json!([{ "id": format!("{prefix}-news"), "operation": "create", "version": 1 }]), "{hint}");
    }
}
