//! A reader that stops reading costs a bounded amount and delays nobody; afterwards it gets even by pulling.

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::ring;
use crate::support::Appliance;
use crate::support::replica::Replica;
use crate::support::socket::Socket;

const TABLES: usize = 8;
const PUSHES: usize = 100;
const EACH: usize = 60;

fn rules() -> String {
    let table = |no| format!("[tables.t{no}]\nrule = \"latest_wins\"\n");
    format!("[tables.bells]\nrule = \"latest_wins\"\n{}", (0..TABLES).map(table).collect::<String>())
}

/// An id as long as one may be.
fn long(name: &str) -> String {
    format!("{name}{}", "x".repeat(128 - name.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_delays_nobody_and_finds_what_came_meanwhile_as_one_hint() {
    let office = Appliance::with(&rules()).await;
    let (writer, slow) = (office.boss("anna").await, office.boss("ben").await);
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4 << 10).unwrap();
    let mut stalled = Socket::over(tcp.connect(office.address).await.unwrap(), &slow).await.unwrap();
    let mut quick = Socket::open(&office.enrolled("ben", "2").await).await;
    for push in 0..PUSHES {
        let records = |table| -> Vec<Value> { (0..EACH).map(|no| json!({ "id": long(&format!("{table}-{push}-{no}-")) })).collect() };
        let changes: serde_json::Map<String, Value> = (0..TABLES).map(|table| (format!("t{table}"), json!(records(table)))).collect();
        writer.push(json!({ "changes": changes })).await;
        // The other one is told before the next push begins.
        quick.until("t0", &long(&format!("0-{push}-{}-", EACH - 1))).await;
    }
    ring(&writer, "end").await;
    let heard = stalled.until("bells", "end").await;
    let all = (PUSHES * EACH) as u64;
    for table in 0..TABLES {
        assert_eq!(heard.count(&format!("t{table}")), all, "none is lost from the count");
    }
    // What the systems' buffers did not take was folded.
    let most = heard.counted.iter().map(|(_, count)| *count).max();
    assert!(most.is_some_and(|most| most >= 10 * EACH as u64), "{most:?} of {all} in one hint");
    assert!(heard.hints < PUSHES * 9 / 10, "{} hints", heard.hints);
    let mut replica = Replica::new(slow);
    replica.pull().await;
    assert_eq!(replica.verify().await, Some(true));
    assert_eq!(replica.mirror.len(), all as usize * TABLES + 1);
    // It goes on as before.
    ring(&writer, "again").await;
    assert_eq!(stalled.until("bells", "again").await.hints, 1);
}
