//! A device that pulls on its hello and on hints alone misses nothing, however often its connection is cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backroom::domain::actor::Role;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::RULES;
use crate::support::replica::Replica;
use crate::support::socket::Socket;
use crate::support::{Appliance, Device};

/// A generator of numbers that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Passes bytes on and cuts each connection after some of the appliance's.
async fn proxy(to: SocketAddr, cuts: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut dice = Dice(9);
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            // Also within the handshake, and within a frame.
            let (mut left, cuts) = (dice.roll(4_000), cuts.clone());
            tokio::spawn(async move {
                let (mut near_read, mut near_write) = near.into_split();
                let (mut far_read, mut far_write) = far.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut near_read, &mut far_write).await });
                let mut piece = [0; 512];
                while let Ok(size @ 1..) = far_read.read(&mut piece).await {
                    let passed = size.min(left);
                    left -= passed;
                    if near_write.write_all(&piece[..passed]).await.is_err() || left == 0 {
                        cuts.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
                up.abort();
                let _ = near_write.as_ref().set_zero_linger();
            });
        }
    });
    address
}

/// Changes what it likes, some of it against others.
async fn push_at_random(device: Device, seed: u64, stores: &[&str]) {
    let mut dice = Dice(seed);
    let mut replica = Replica::new(device);
    for turn in 0..130 {
        if turn % 8 == 0 {
            replica.pull().await;
        }
        let mut records = Vec::new();
        for _ in 0..1 + dice.roll(16) {
            let id = format!("r{}", dice.roll(120));
            let held = replica.mirror.get(&("visits".to_owned(), id.clone()));
            let version = held.map_or(json!(0), |held| held["version"].clone());
            records.push(match dice.roll(6) {
                0 if held.is_some() => json!({ "id": id, "version": version, "deleted": true }),
                _ => json!({ "id": id, "version": version, "store_id": stores[dice.roll(stores.len())], "n": turn, "by": seed }),
            });
        }
        replica.device.push(json!({ "changes": { "visits": records } })).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_and_pulls_alone_keep_a_device_equal_to_the_server() {
    let office = Appliance::with(RULES).await;
    let own = office.clerk("ben", "A").await;
    let cuts = Arc::<AtomicUsize>::default();
    let way = proxy(office.address, cuts.clone()).await;
    let mut pushers = Vec::new();
    for (seed, (name, role, stores)) in
        [("cleo", Role::Store, &["A"][..]), ("dora", Role::Store, &["A", "B"]), ("boss", Role::Manager, &[]), ("max", Role::Manager, &[])]
            .into_iter()
            .enumerate()
    {
        let device = office.someone(name, role, stores).await;
        let to: &[&str] = if role == Role::Manager { &["A", "B"] } else { stores };
        pushers.push(push_at_random(device, seed as u64, to));
    }
    let bell = office.chief("bell").await;
    let pushing = async {
        futures_util::future::join_all(pushers).await;
        // All that was pushed came before it.
        super::ring(&bell, "end").await;
    };
    let mut follower = Replica::new(own);
    let follow = async {
        let end = ("bells".to_owned(), "end".to_owned());
        let mut pulls = 0;
        while !follower.mirror.contains_key(&end) {
            let stream = TcpStream::connect(way).await.unwrap();
            let Ok(mut socket) = Socket::over(stream, &follower.device).await else { continue };
            loop {
                follower.pull().await;
                pulls += 1;
                if follower.mirror.contains_key(&end) || socket.next().await.is_err() {
                    break;
                }
            }
        }
        pulls
    };
    let ((), pulls) = tokio::join!(pushing, follow);
    assert!(cuts.load(Ordering::Relaxed) > 20 && pulls > 50, "{cuts:?} cuts, {pulls} pulls");
    assert_eq!(follower.verify().await, Some(true));
    let history: i64 = office.ask("SELECT count(*) FROM changes").await;
    assert!(history > 2_000, "{history} changes");
}
