//! Many that come and go at once, and what is refused when there is no room.

use futures_util::future::join_all;
use serde_json::json;

use super::{RULES, listening, ring};
use crate::support::socket::{PATIENCE, Socket, bearer, handshake};
use crate::support::wire::{Reply, Wire};
use crate::support::{Appliance, Device};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_devices_that_come_back_at_once_settle() {
    let office = Appliance::with(RULES).await;
    let bell = office.boss("anna").await;
    drop(office.clerk("ben", "A").await);
    let devices = office.crowd("ben", 1_000).await;
    for round in 0..3 {
        let sockets = join_all(devices.iter().map(Socket::open)).await;
        assert_eq!(office.app.hub.count(), 1_000, "round {round}");
        assert_eq!(office.app.hub.connected().len(), 1_000);
        sockets.into_iter().for_each(Socket::cut);
        // The next round does not wait until the appliance has noticed.
        if round == 2 {
            listening(&office, 0).await;
        }
    }
    assert!(office.app.hub.connected().is_empty());
    let mut socket = Socket::open(&devices[0]).await;
    ring(&bell, "b").await;
    assert_eq!(socket.until("bells", "b").await.hints, 1);
}

async fn knock(device: &Device) -> (Wire, Reply) {
    let mut wire = Wire::open(device.address).await;
    let reply = wire.shake(&handshake(device.address, "", &bearer(device))).await;
    (wire, reply)
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (status, code), "{}", reply.head);
    let wait = reply.head.to_lowercase();
    let wait = wait.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("it says when to try again").to_owned();
    assert!(wait.trim().parse::<u64>().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_and_all_together_have_so_many_places_and_get_them_back() {
    let rules = format!("[live]\ndevice_sockets = 3\nsockets = 5\n{RULES}");
    let office = Appliance::with(&rules).await;
    let (ben, cleo, bell) = (office.clerk("ben", "A").await, office.clerk("cleo", "A").await, office.boss("anna").await);
    let mut own = Vec::new();
    for _ in 0..3 {
        own.push(Socket::open(&ben).await);
    }
    refused(&knock(&ben).await.1, 429, "too_many_sockets");
    let mut others = vec![Socket::open(&cleo).await, Socket::open(&cleo).await];
    refused(&knock(&cleo).await.1, 503, "unavailable");
    assert_eq!(office.app.hub.count(), 5);
    // Who was refused a place syncs as ever.
    ben.push_one("visits", json!({ "id": "v" })).await.applied("visits", "v");
    assert_eq!(others[0].hint().await["tables"]["visits"][0]["id"], "v");
    own.pop().unwrap().close().await;
    own.pop().unwrap().cut();
    listening(&office, 3).await;
    own.push(Socket::open(&ben).await);
    others.push(Socket::open(&cleo).await);
    refused(&knock(&ben).await.1, 503, "unavailable");
    ring(&bell, "b").await;
    for socket in own.iter_mut().chain(&mut others) {
        socket.until("bells", "b").await;
    }
    drop((own, others));
    listening(&office, 0).await;
    // A person's browsers have as many places as a device.
    office.user("mia", backroom::domain::actor::Role::Manager, &[]).await;
    let cookie = office.sign_in("mia").await;
    let stranger = Device::stranger(office.address);
    let mut browsers = Vec::new();
    for _ in 0..3 {
        let ticket = crate::support::socket::ticket(&stranger, Some(&cookie)).await;
        browsers.push(Socket::by_ticket(office.address, &ticket).await);
    }
    let ticket = crate::support::socket::ticket(&stranger, Some(&cookie)).await;
    let mut wire = Wire::open(office.address).await;
    refused(&wire.shake(&handshake(office.address, &format!("?ticket={ticket}"), "")).await, 429, "too_many_sockets");
    assert!(tokio::time::timeout(PATIENCE, browsers.remove(0).close()).await.is_ok());
    listening(&office, 2).await;
}
