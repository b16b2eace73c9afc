//! `cargo bench --bench sync`: the release server on loopback under load, and raw SQLite beside it in the same run.
//!
//! Honest set-up: default configuration, the `store` preset, every connection its own enrolled device, fresh ids, and an
//! answer counts only with all ten records in `applied`. Raw SQLite has the server's pragmas and cached statements, the same
//! records, as many in a commit as the server's writer reached, and the machine to itself. Figures depend on the machine:
//! compare columns, not runs. `SECTIONS=push,pull cargo bench --bench sync` runs some of it.

#![allow(unreachable_pub, clippy::expect_used, clippy::print_stdout, reason = "a program of its own that prints a table")]

#[path = "sync/live.rs"]
mod live;
#[path = "sync/load.rs"]
mod load;
#[path = "sync/raw.rs"]
mod raw;
#[path = "sync/server.rs"]
mod server;

use std::time::{Duration, Instant};

use load::{Ids, Load};
use server::Server;

/// Records in a push.
pub const RECORDS: usize = 10;

fn wanted(section: &str) -> bool {
    std::env::var("SECTIONS").map_or(true, |sections| sections.split(',').any(|one| one.trim() == section))
}

fn main() {
    // `cargo test --benches` only wants to see that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        println!("backroom {}, {} cores\n", env!("CARGO_PKG_VERSION"), std::thread::available_parallelism().map_or(0, |n| n.get()));
        if wanted("start") {
            start().await;
        }
        if wanted("push") {
            push().await;
        }
        if wanted("pull") {
            pull().await;
        }
        if wanted("million") {
            million().await;
        }
        if wanted("merge") {
            merges().await;
        }
        if wanted("conflict") {
            conflicts().await;
        }
        if wanted("purge") {
            purge().await;
        }
        if wanted("live") {
            listening().await;
        }
    });
}

/// One line of the table; `goal` says what must be reached and whether it was.
fn line(name: &str, figure: String, goal: Option<(bool, String)>) {
    let verdict = goal.map_or(String::new(), |(reached, text)| format!("{} {text}", if reached { "reached:" } else { "MISSED: " }));
    println!("  {name:<52} {figure:>24}   {verdict}");
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

async fn start() {
    println!("start and idle");
    let size = std::fs::metadata(server::BINARY).map_or(0, |data| data.len());
    line("binary", format!("{:.1} MB", size as f64 / 1e6), Some((size < 15 << 20, "under 15 MiB".into())));
    let server = Server::start().await;
    let first = server.first_answer;
    line("first answer, empty", milliseconds(first), Some((first < Duration::from_millis(50), "under 50 ms".into())));
    let devices = server.devices(1).await;
    let load = Load::new(&server, devices, Ids::Ordered);
    load.pushes(1).await;
    let cursor = load.cursor(0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = server.written();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        load.poll(0, &cursor).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let written = server.written() - before;
    line("written in 5 s of idle polls", format!("{written} bytes"), Some((written == 0, "none".into())));
    let memory = server.memory();
    line("resident, idle", format!("{:.1} MiB", memory), Some((memory < 20.0, "under 20 MiB".into())));
    println!();
}

async fn push() {
    println!("push, {RECORDS} records of about 300 bytes, durable; raw SQLite beside it");
    for (ids, share, least) in [(Ids::Random, 0.60, 3_500.0), (Ids::Ordered, 0.25, 6_000.0)] {
        let per_commit = 64 * RECORDS;
        let reference = raw::inserts(ids, 200_000, per_commit);
        let valid = if ids == Ids::Random { 50_000.0 } else { 200_000.0 };
        line(
            &format!("raw, {} ids, {per_commit} a commit", ids.name()),
            format!("{:.0} records/s", reference.records_per_second),
            Some((reference.records_per_second >= valid, format!("{valid:.0}, or this run is void"))),
        );
        for (connections, pushes) in [(1, 3_000), (8, 8_000), (64, 20_000)] {
            let server = Server::start().await;
            let load = Load::new(&server, server.devices(connections).await, ids);
            load.pushes(connections * 20).await;
            let before = server.writer().await;
            let run = load.pushes(pushes).await;
            let after = server.writer().await;
            let (jobs, commits) = (after.0 - before.0, (after.1 - before.1).max(1));
            let a_commit = (jobs as f64 / commits as f64 * RECORDS as f64).round().max(1.0) as usize;
            let memory = server.memory();
            drop(server);
            let alone = raw::inserts(ids, run.pushes * RECORDS, a_commit);
            let part = run.records_per_second() / alone.records_per_second;
            let name = format!("{} ids, {connections} connections", ids.name());
            line(
                &name,
                format!("{:.0} pushes/s", run.pushes_per_second()),
                (connections == 64).then(|| (run.pushes_per_second() >= least, format!("{least:.0}"))),
            );
            line("", format!("{:.0} records/s", run.records_per_second()), None);
            let goal = match connections {
                64 => Some((part >= share, format!("{:.0} % of raw", share * 100.0))),
                1 => Some((part >= 0.5, "50 % of raw commits/s".into())),
                _ => None,
            };
            line(
                &format!("  of raw ({:.0} records/s at {a_commit} a commit)", alone.records_per_second),
                format!("{:.0} %", part * 100.0),
                goal,
            );
            line("  p50", milliseconds(run.percentile(50.0)), None);
            let p99 = run.percentile(99.0);
            line("  p99", milliseconds(p99), (connections == 64).then(|| (p99 < Duration::from_millis(40), "under 40 ms".into())));
            if connections == 64 {
                line("  resident after it", format!("{memory:.1} MiB"), Some((memory < 64.0, "under 64 MiB".into())));
            }
        }
    }
    println!();
}

async fn pull() {
    println!("pull");
    let server = Server::start().await;
    let load = Load::new(&server, server.devices(8).await, Ids::Ordered);
    load.pushes(1_000).await;
    let mut best = 0.0f64;
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let records = load.pull_all(0, 1_000).await;
        let took = began.elapsed();
        assert_eq!(records, 10_000, "all changes of all devices of the store");
        times.push(took);
        best = best.max(records as f64 / took.as_secs_f64());
    }
    times.sort();
    let middle = 10_000.0 / times[times.len() / 2].as_secs_f64();
    let alone = raw::selects(&server.database(), 10_000);
    line("raw SELECT of the same rows", format!("{alone:.0} records/s"), None);
    line(
        "10,000 changes in pages of 1,000",
        format!("{middle:.0} records/s"),
        Some((middle >= 0.2 * alone, format!("20 % of raw ({:.0} %)", middle / alone * 100.0))),
    );
    line("  best of 20", format!("{best:.0} records/s"), None);
    // Short enough that the burst of each device's rate limit is not used up.
    let polls = load.polls(Duration::from_millis(1_500)).await;
    line("idle polls, 8 connections", format!("{polls:.0}/s"), Some((polls >= 30_000.0, "30,000/s".into())));
    println!();
}

async fn million() {
    println!("a database of 1,000,000 records in other feeds");
    let server = Server::start().await;
    let devices = server.devices_of(2, |no| format!("S{no}")).await;
    let load = Load::new(&server, devices, Ids::Ordered);
    let without = hundred(&load).await;
    line("pull of 100 changes, none beside them", milliseconds(without), None);
    let began = Instant::now();
    load.fill(1, 1_000_000).await;
    line("1,000,000 records pushed, 1,000 a push", format!("{:.0} records/s", 1e6 / began.elapsed().as_secs_f64()), None);
    let with = hundred(&load).await;
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    line(
        "pull of 100 changes, 1,000,000 beside them",
        milliseconds(with),
        Some((ratio <= 1.5, format!("1.5 times as long at most ({ratio:.2})"))),
    );
    let memory = server.memory();
    line("resident", format!("{memory:.1} MiB"), Some((memory < 64.0, "under 64 MiB".into())));
    let server = server.restart().await;
    let first = server.first_answer;
    line("first answer, 1,000,000 records", milliseconds(first), Some((first < Duration::from_millis(300), "under 300 ms".into())));
    println!();
}

/// The median time of a pull that gives 100 changes.
async fn hundred(load: &Load) -> Duration {
    let cursor = load.cursor(0).await;
    for _ in 0..10 {
        load.push_as(0).await;
    }
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        let records = load.pull_from(0, &cursor, 1_000).await.0;
        times.push(began.elapsed());
        assert_eq!(records, 100);
    }
    times.sort();
    times[times.len() / 2]
}

/// Rules whose records two devices merge.
const MERGED: &str = r#"
[tables.progress]
rule = "latest_wins"
scope = "store"
merge = { done = "max", spent = "sum" }
"#;

async fn merges() {
    println!("field merges, {RECORDS} records a push");
    let server = Server::start_with(MERGED).await;
    let load = Load::new(&server, server.devices(2).await, Ids::Ordered);
    for (name, dry, rounds) in [("", false, 2_000), (", without the disk (dry run)", true, 2_000)] {
        let (plain, merged) = load.merges(rounds, dry).await;
        for (kind, run) in [("plain", &plain), ("merged", &merged)] {
            line(&format!("{kind} push{name}, p50"), milliseconds(run.percentile(50.0)), None);
        }
        let times = plain.pushes_per_second() / merged.pushes_per_second();
        line(&format!("merged costs{name}"), format!("{times:.2} times a plain one"), Some((times <= 2.0, "at most twice".into())));
    }
    println!();
}

async fn conflicts() {
    println!("conflicts");
    let server = Server::start().await;
    let load = Load::new(&server, server.devices(200).await, Ids::Ordered);
    let run = load.conflicts(8, 1_000).await;
    line("all-conflict pushes, 8 connections", format!("{:.0} pushes/s", run.pushes_per_second()), None);
    line("  p99", milliseconds(run.percentile(99.0)), None);
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..30 {
        let began = Instant::now();
        server.status().await;
        times.push(began.elapsed());
    }
    times.sort();
    line("status with 200 devices and 10,000 conflicts, p50", milliseconds(times[times.len() / 2]), None);
    println!();
}

async fn purge() {
    println!("purge");
    let server = Server::start().await;
    let load = Load::new(&server, server.devices(9).await, Ids::Ordered);
    load.tombstones(8, 10_000).await;
    let quiet = load.pushes(2_000).await;
    let (purge, busy) = tokio::join!(server.cleanup(), load.pushes(8_000));
    line("10,000 tombstones purged while pushing", milliseconds(purge), None);
    line("  push p99, 9 connections, without it", milliseconds(quiet.percentile(99.0)), None);
    line("  push p99, 9 connections, with it", milliseconds(busy.percentile(99.0)), None);
    println!();
}

async fn listening() {
    println!("live: from a push's answer to the hints, every listener its own device");
    let server = Server::start().await;
    let pusher = server.devices(1).await.remove(0);
    let crowd = server.crowd(1_000).await;
    // What the first connections and a thousand requests leave behind is no listener's.
    live::round(&server, &pusher, &crowd[..10], 20).await;
    server.alone().await;
    for listeners in [10, 100, 1_000] {
        let before = server.memory();
        let round = live::round(&server, &pusher, &crowd[..listeners], 100).await;
        let percentile = |percent: usize| round.times[(round.times.len() * percent / 100).min(round.times.len() - 1)];
        line(&format!("{listeners} listeners, p50"), milliseconds(percentile(50)), None);
        line("  p99", milliseconds(percentile(99)), None);
        line("  hints that did not come", round.missing.to_string(), Some((round.missing == 0, "none".into())));
        if listeners == 1_000 {
            line("  resident before", format!("{before:.1} MiB"), None);
            line("  resident with them", format!("{:.1} MiB", round.memory), Some((round.memory < 64.0, "under 64 MiB".into())));
            server.alone().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let after = server.memory();
            line("  resident after", format!("{after:.1} MiB"), Some((after - before < 10.0, "at most 10 MiB more than before".into())));
        }
    }
    println!();
}
