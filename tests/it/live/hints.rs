//! A hint comes after the commit it is about, and none is missing.

use std::collections::BTreeMap;

use serde_json::json;

use super::{RULES, ring};
use crate::support::Appliance;
use crate::support::replica::Replica;
use crate::support::socket::Socket;

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_started_on_a_hint_returns_what_it_names() {
    let office = Appliance::with(RULES).await;
    let (bell, own) = (office.boss("anna").await, office.clerk("ben", "A").await);
    let mut socket = Socket::open(&own).await;
    let mut replica = Replica::new(own);
    let mut pushers = Vec::new();
    for name in ["cleo", "dan", "eve", "fay"] {
        let device = office.clerk(name, "A").await;
        pushers.push(tokio::spawn(async move {
            for turn in 0..100 {
                let (own, shared) = (format!("{}-{turn}", device.id), format!("s{}", turn % 7));
                let body =
                    json!({ "changes": { "visits": [{ "id": own, "turn": turn }, { "id": shared, "by": device.id, "turn": turn }] } });
                device.push(body).await;
            }
        }));
    }
    let ringing = tokio::spawn(async move {
        for pusher in pushers {
            pusher.await.unwrap();
        }
        ring(&bell, "last").await;
        bell
    });
    let (mut hints, mut named) = (0, BTreeMap::new());
    loop {
        let hint = socket.hint().await;
        hints += 1;
        replica.pull().await;
        for (table, changes) in hint["tables"].as_object().unwrap() {
            for change in changes.as_array().into_iter().flatten() {
                let id = change["id"].as_str().unwrap();
                let version = change["version"].as_i64().unwrap();
                let held = replica.mirror.get(&(table.clone(), id.to_owned())).map_or(0, |held| held["version"].as_i64().unwrap());
                if held < version {
                    // It changed again while the pull ran, and is the next one's.
                    let now = replica.device.record(table, id).await.ok()["record"]["version"].as_i64().unwrap();
                    assert!(id.starts_with('s') && now > version, "{table}/{id}: {held} after a hint of {version}, now {now}");
                }
                named.entry((table.clone(), id.to_owned())).and_modify(|most: &mut i64| *most = version.max(*most)).or_insert(version);
            }
        }
        if hint["tables"].get("bells").is_some() {
            break;
        }
    }
    let bell = ringing.await.unwrap();
    assert!(hints > 20, "{hints} hints for 400 pushes");
    assert_eq!(replica.verify().await, Some(true));
    // Every record's newest version was named: nothing was left to a later hint.
    for (key, version) in &named {
        assert_eq!(replica.mirror[key]["version"], *version, "{key:?}");
    }
    let all: i64 = office.ask("SELECT count(*) FROM heads").await;
    assert_eq!((all, replica.mirror.len()), (4 * 100 + 7 + 1, 4 * 100 + 7 + 1));
    drop(bell);
}

/// Nothing is gathered while nobody listens; a change whose commit is under way while the first listener comes is either in
/// what it pulls on its hello, or told.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_first_misses_no_commit_that_is_under_way() {
    let office = Appliance::with(RULES).await;
    let (own, other) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    for round in 0..150 {
        let id = format!("r{round}");
        let push = async {
            // Over the handshake's whole time, step by step.
            for _ in 0..round * 4 {
                tokio::task::yield_now().await;
            }
            other.push_one("visits", json!({ "id": id })).await.applied("visits", &id);
        };
        let (mut socket, ()) = tokio::join!(Socket::open(&own), push);
        let hello = socket.hello["cursor"].as_str().unwrap().to_owned();
        // What a pull up to the hello's position has: the push is done, so a pull now has all. The position tells what it had then.
        let after = own.pull_with(json!({ "cursor": hello })).await;
        if after.records("visits").iter().any(|record| record["id"] == id) {
            socket.until("visits", &id).await;
        }
        socket.close().await;
        super::listening(&office, 0).await;
    }
}
