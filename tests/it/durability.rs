//! What was answered stays: through kill -9, a full disk and SIGTERM. And what rests writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use reqwest::{Client, Method};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::process::{self, Serving};
use crate::support::small_disk::SmallDisk;
use crate::support::{Device, LOOPBACK};

const PUSH: &str = "/api/v1/sync/push";

/// A push that may lose its answer: `None`, nobody knows what became of it.
async fn attempt(device: &Device, body: &Value) -> Option<(u16, Value)> {
    let request = device.request(Method::POST, PUSH).header("content-type", "application/json").body(body.to_string());
    let response = device.client.execute(request.build().unwrap()).await.ok()?;
    let status = response.status().as_u16();
    Some((status, serde_json::from_str(&response.text().await.ok()?).ok()?))
}

/// Every id that a push's answer accepts.
fn accepted(answer: &Value) -> Vec<String> {
    let tables = answer["applied"].as_object().unwrap();
    tables.values().flat_map(|list| list.as_array().unwrap()).map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// A push of three new records: queued operations or whole records.
fn three(device: &Device, name: &str, named: bool) -> (Value, Vec<String>) {
    let ids: Vec<String> = (0..3).map(|k| format!("{}-{name}-{k}", device.id)).collect();
    let data = |id: &str| json!({ "id": id, "status": "open", "note": "x".repeat(300) });
    let body = if named {
        let operation =
            |id: &String| json!({ "op_id": format!("op-{id}"), "table": "submissions", "id": id, "op": "create", "data": data(id) });
        json!({ "operations": ids.iter().map(operation).collect::<Vec<_>>() })
    } else {
        json!({ "changes": { "submissions": ids.iter().map(|id| data(id)).collect::<Vec<_>>() } })
    };
    (body, ids)
}

/// What a directory's database holds: ids with the number of their rows and the highest version. It is looked at in a copy,
/// so that the appliance itself finds the files as they were left.
fn rows(directory: &Path) -> BTreeMap<String, (i64, i64)> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["backroom.db", "backroom.db-wal"] {
        if directory.join(name).exists() {
            std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
        }
    }
    let db = Connection::open(copy.path().join("backroom.db")).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let heads: i64 =
        db.query_row("SELECT count(*) FROM heads h JOIN changes c ON c.seq = h.seq AND c.next IS NULL", [], |r| r.get(0)).unwrap();
    let mut query = db.prepare("SELECT id, count(*), max(version) FROM changes GROUP BY id").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).unwrap();
    let rows: BTreeMap<String, (i64, i64)> = rows.collect::<rusqlite::Result<_>>().unwrap();
    assert_eq!(rows.len() as i64, heads, "heads and changes agree");
    rows
}

/// Everything that a device sees, from zero.
async fn everything(device: &Device) -> BTreeMap<String, i64> {
    let (mut all, mut cursor) = (BTreeMap::new(), None);
    loop {
        let page = device.pull_with(json!({ "cursor": cursor, "limit": 5_000 })).await;
        for record in page.records("submissions") {
            all.insert(record["id"].as_str().unwrap().to_owned(), record["version"].as_i64().unwrap());
        }
        cursor = Some(page.cursor());
        if page.0["has_more"] == false {
            return all;
        }
    }
}

/// A push: its device's place, its body, its ids, and whether it was answered.
type Sent = (usize, Value, Vec<String>, bool);

/// Devices that push without a pause until nobody answers.
struct Load {
    acknowledged: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    pushes: Arc<Mutex<Vec<Sent>>>,
}

impl Load {
    fn start(devices: &[Device], name: &str) -> Load {
        let (acknowledged, pushes) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let tasks: Vec<_> = devices
            .iter()
            .cloned()
            .enumerate()
            .map(|(place, device)| {
                let (acknowledged, pushes, name) = (acknowledged.clone(), pushes.clone(), name.to_owned());
                tokio::spawn(async move {
                    for n in 0..100_000 {
                        let (body, ids) = three(&device, &format!("{name}-{n}"), place % 2 == 0);
                        let answer = attempt(&device, &body).await.filter(|(status, _)| *status != 503);
                        if let Some((status, answer)) = &answer {
                            assert_eq!((*status, accepted(answer)), (200, ids.clone()), "{answer}");
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        pushes.lock().unwrap().push((place, body, ids, answer.is_some()));
                        if answer.is_none() {
                            return;
                        }
                    }
                })
            })
            .collect();
        Load { acknowledged, tasks, pushes }
    }

    /// Waits until so many pushes were answered.
    async fn reaches(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.acknowledged.load(Ordering::Relaxed) < count {
            assert!(Instant::now() < deadline, "{} pushes were answered", self.acknowledged.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) -> Vec<Sent> {
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut self.pushes.lock().unwrap())
    }
}

/// An appliance with so many tills of one store, and a manager.
async fn office(directory: &Path, tills: usize) -> (Serving, Device, Vec<Device>) {
    let serving = Serving::start(directory);
    let anna = serving.guest("anna", "manager", &[]).await;
    process::add_guest(directory, "till", "store", &["A"]);
    let mut devices = Vec::new();
    for no in 0..tills {
        devices.push(serving.enrol("till", &format!("till-{no}")).await);
    }
    (serving, anna, devices)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_change_survives_kill_9_and_none_is_there_twice() {
    const ROUNDS: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    let (mut serving, mut anna, mut tills) = office(directory.path(), 5).await;
    let (mut acknowledged, mut sent, mut lost) = (BTreeSet::new(), BTreeSet::new(), 0);
    for round in 0..ROUNDS {
        let load = Load::start(&tills, &format!("r{round}"));
        // Another moment in each round.
        load.reaches(10 + 7 * round).await;
        serving.kill();
        let pushes = load.end().await;

        for (_, _, ids, answered) in &pushes {
            sent.extend(ids.clone());
            if *answered {
                acknowledged.extend(ids.clone());
            } else {
                lost += 1;
            }
        }
        let stored = rows(directory.path());
        for id in &acknowledged {
            assert_eq!(stored.get(id), Some(&(1, 1)), "round {round}: {id}");
        }
        assert!(stored.iter().all(|(id, count)| *count == (1, 1) && sent.contains(id)), "round {round}");

        serving = Serving::start(directory.path());
        for device in tills.iter_mut().chain([&mut anna]) {
            (device.address, device.client) = (serving.address, Client::new());
        }
        // A device knows only what was answered, and a careless one not even that: it sends all of it again.
        let again = pushes.iter().map(|(place, body, ids, _)| {
            let device = &tills[*place];
            async move {
                let (status, answer) = attempt(device, body).await.unwrap();
                assert_eq!((status, &accepted(&answer)), (200, ids), "{answer}");
                let tables = answer["applied"]["submissions"].as_array().unwrap();
                assert!(tables.iter().all(|entry| entry["version"] == 1 && entry["status"] == "applied"), "{answer}");
            }
        });
        futures_util::future::join_all(again).await;
        acknowledged.extend(pushes.into_iter().flat_map(|(_, _, ids, _)| ids));
        let seen = everything(&anna).await;
        assert!(seen.keys().eq(acknowledged.iter()) && seen.values().all(|version| *version == 1), "round {round}");
        // The figures, too, know what came just before the kill.
        let status = anna.get("/api/v1/sync/status").await.ok();
        assert_eq!(status["counts"]["records"], acknowledged.len(), "round {round}");
    }
    // Without a lost answer the rounds would have shown little.
    assert!(lost >= ROUNDS, "{lost} pushes lost their answer");
    for id in acknowledged.iter().step_by(97) {
        let history = anna.get(&format!("/api/v1/records/submissions/{id}/history")).await.ok();
        assert_eq!(history["history"].as_array().unwrap().len(), 1, "{history}");
    }
    serving.stop();
    let stored = rows(directory.path());
    assert!(stored.keys().eq(acknowledged.iter()) && stored.values().all(|count| *count == (1, 1)));
}

/// One system call of a traced process, by the lines of the trace on which it began and ended.
#[derive(Debug)]
struct SystemCall {
    name: String,
    text: String,
    began: usize,
    ended: usize,
}

impl SystemCall {
    /// The descriptor, which is the first argument of all that are traced here.
    fn descriptor(&self) -> String {
        self.text.chars().take_while(char::is_ascii_digit).collect()
    }
}

/// Reads the output of `strace -f -o`: calls that another thread's line cuts in two are put together.
fn trace(text: &str) -> Vec<SystemCall> {
    let (mut calls, mut open) = (Vec::new(), HashMap::<&str, SystemCall>::new());
    for (no, line) in text.lines().enumerate() {
        let Some((thread, line)) = line.split_once(' ') else { continue };
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("<... ") {
            if let Some(mut call) = open.remove(thread) {
                call.text.push_str(rest.split_once("resumed>").map_or("", |(_, rest)| rest));
                call.ended = no;
                calls.push(call);
            }
            continue;
        }
        let Some((name, rest)) = line.split_once('(') else { continue };
        let call = SystemCall { name: name.into(), text: rest.into(), began: no, ended: no };
        if line.ends_with("<unfinished ...>") { drop(open.insert(thread, call)) } else { calls.push(call) }
    }
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_completes_between_a_push_and_its_answer_and_serves_many() {
    const ALONE: usize = 20;
    const TOGETHER: usize = 32;
    const TIMES: usize = 4;
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("trace");
    // With -D the appliance is our child, and strace its companion.
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-y", "-s", "64", "-o"]).arg(&output);
    command.args(["-e", "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync"]);
    command.arg(process::BINARY).arg("--data-dir").arg(directory.path()).args(["serve", "--listen", "127.0.0.1:0"]);
    let serving = Serving::spawn(directory.path(), command);
    let till = serving.guest("till", "store", &["A"]).await;
    for n in 0..ALONE {
        till.push_one("submissions", json!({ "id": format!("alone-{n}") })).await.applied("submissions", &format!("alone-{n}"));
    }
    let connections = (0..TOGETHER).map(|c| {
        let till = Device { client: Client::new(), ..till.clone() };
        async move {
            for n in 0..TIMES {
                let id = format!("together-{c}-{n}");
                till.push_one("submissions", json!({ "id": id })).await.applied("submissions", &id);
            }
        }
    });
    futures_util::future::join_all(connections).await;
    serving.stop();

    // strace writes its last lines when the appliance has ended.
    let deadline = Instant::now() + Duration::from_secs(20);
    let text = loop {
        let text = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
        if text.contains("+++ exited with 0 +++") {
            break text;
        }
        assert!(Instant::now() < deadline, "the trace does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let calls = trace(&text);
    let syncs: Vec<&SystemCall> = calls
        .iter()
        .filter(|call| {
            ["fsync", "fdatasync"].contains(&call.name.as_str()) && call.text.contains("backroom.db-wal") && call.text.ends_with("= 0")
        })
        .collect();
    let reads = calls.iter().filter(|call| call.text.contains("\"POST /api/v1/sync/push "));
    let mut pushes: Vec<(&SystemCall, &SystemCall)> = reads
        .map(|read| {
            let answers = calls.iter().filter(|call| call.began > read.ended && call.text.contains("\"HTTP/1.1 200 OK"));
            (read, answers.filter(|call| call.descriptor() == read.descriptor()).min_by_key(|call| call.began).unwrap())
        })
        .collect();
    pushes.sort_by_key(|(read, _)| read.ended);
    assert_eq!(pushes.len(), ALONE + TOGETHER * TIMES, "the trace shows every push");
    for (read, answer) in &pushes {
        let covers = |sync: &&&SystemCall| sync.began > read.ended && sync.ended < answer.began;
        assert!(syncs.iter().any(|sync| covers(&sync)), "answered without a sync: {read:?} {answer:?}");
        // And what was synced had been written before, for this push or one that shares its commit.
        let written = calls.iter().any(|call| {
            call.name == "pwrite64" && call.text.contains("backroom.db-wal") && call.began > read.ended && call.ended < answer.began
        });
        assert!(written, "answered without a write: {read:?} {answer:?}");
    }
    let begun = pushes[ALONE].0.began;
    let shared = syncs.iter().filter(|sync| sync.began > begun).count();
    assert!(shared < TOGETHER * TIMES * 3 / 4, "{shared} syncs for {} pushes at once", TOGETHER * TIMES);
}

/// Pushes until one is accepted, which is kept in `stored`.
async fn until_accepted(till: &Device, name: &str, stored: &mut BTreeSet<String>) {
    let deadline = Instant::now() + Duration::from_secs(15);
    for n in 0.. {
        let (body, ids) = three(till, &format!("{name}-{n}"), true);
        let (status, answer) = attempt(till, &body).await.unwrap();
        if status == 200 {
            stored.extend(ids);
            return;
        }
        assert_eq!((status, &answer["code"]), (507, &json!("storage_full")), "{answer}");
        assert!(Instant::now() < deadline, "{status} {answer}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Reads go on, and each change that was accepted is there.
async fn reads_go_on(anna: &Device, stored: &BTreeSet<String>) {
    let seen = everything(anna).await;
    assert!(stored.iter().all(|id| seen.get(id) == Some(&1)), "{} of {} are there", seen.len(), stored.len());
    assert_eq!(anna.record("submissions", stored.first().unwrap()).await.status, 200);
    assert_eq!(anna.get("/readyz").await.status, 200);
    assert_eq!(anna.get("/api/v1/sync/status").await.ok()["success"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_almost_full_disk_refuses_writes_and_takes_them_again_when_there_is_space() {
    let disk = SmallDisk::new(24);
    let directory = disk.path().join("data");
    let (serving, anna, tills) = office(&directory, 1).await;
    process::add_user(&directory, "berta", "manager", &[]);
    let till = &tills[0];
    let mut stored = BTreeSet::new();
    until_accepted(till, "before", &mut stored).await;
    // Under 2 % of the disk.
    disk.fill(400 << 10);
    // The disk is asked once a second.
    let deadline = Instant::now() + Duration::from_secs(5);
    while anna.get("/api/v1/sync/status").await.ok()["status"] != "storage_full" {
        assert!(Instant::now() < deadline, "the status does not tell");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for n in 0..20 {
        let answer = till.try_push(json!({ "changes": { "submissions": [{ "id": format!("refused-{n}") }] } })).await;
        answer.refused(507, "storage_full");
        assert!(answer.text.contains("almost full"), "{}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
    }
    reads_go_on(&anna, &stored).await;
    // Somebody signs in to see what is wrong: in a browser and with a device.
    let login = json!({ "username": "berta", "password": crate::support::PASSWORD });
    assert_eq!(Device::stranger(serving.address).post("/api/v1/auth/login", login).await.status, 204);
    assert!(!serving.device("berta", "berta-1").await.pull().await.records("submissions").is_empty());

    disk.empty();
    until_accepted(till, "after", &mut stored).await;
    assert_eq!(anna.get("/api/v1/sync/status").await.ok()["status"], "ok");
    reads_go_on(&anna, &stored).await;
    serving.stop();
    assert!(rows(&directory).keys().eq(stored.iter()), "nothing refused was stored, nothing stored is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_in_the_middle_of_a_push_loses_nothing() {
    let disk = SmallDisk::new(96);
    let directory = disk.path().join("data");
    let (serving, anna, tills) = office(&directory, 3).await;
    let mut stored = BTreeSet::new();
    // Eight records of nearly a mebibyte, that another device then edits from an old state: each becomes a version and a
    // conflict with both sides, three times the body and more than the writer's cache. SQLite writes before the commit.
    let large = |id: usize, letter: &str| json!({ "id": format!("large-{id}"), "version": 0, "note": letter.repeat(1_000_000) });
    let body = |letter: &str| json!({ "changes": { "submissions": (0..8).map(|id| large(id, letter)).collect::<Vec<_>>() } });
    let (status, answer) = attempt(&tills[0], &body("a")).await.unwrap();
    assert_eq!((status, accepted(&answer).len()), (200, 8));
    stored.extend(accepted(&answer));
    until_accepted(&tills[2], "before", &mut stored).await;
    // The log is 16 MiB at most before it is used again; give it room for that, and not for what comes.
    let log = std::fs::metadata(directory.join("backroom.db-wal")).map_or(0, |data| data.len());
    disk.fill((6 << 20) + 1);
    assert!(disk.free() > (96 << 20) / 50, "the guard does not refuse this");

    // While the large push fails, others push small ones: each is accepted whole or refused whole.
    let (done, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stop, begun, small) = (done.clone(), running.clone(), tills[2].clone());
    let neighbours = tokio::spawn(async move {
        let (mut kept, mut refused) = (BTreeSet::new(), Vec::new());
        // So few that they do not fill the disk themselves, however long the large one takes.
        for n in 0..40 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let (body, ids) = three(&small, &format!("beside-{n}"), false);
            match attempt(&small, &body).await.unwrap() {
                (200, _) => kept.extend(ids),
                (507, answer) => {
                    assert_eq!(answer["code"], "storage_full");
                    refused.push((body, ids));
                }
                (status, answer) => panic!("{status} {answer}"),
            }
            begun.fetch_add(1, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        (kept, refused)
    });
    while running.load(Ordering::Relaxed) < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let larger = body("b");
    let (status, answer) = attempt(&tills[1], &larger).await.unwrap();
    assert_eq!((status, &answer["code"]), (507, &json!("storage_full")), "log {log}: {answer:.300}");
    // It was SQLite that refused, not the guard before it.
    assert!(answer["detail"].as_str().unwrap().contains("disk is full"), "{answer}");
    done.store(true, Ordering::Relaxed);
    let (kept, refused) = neighbours.await.unwrap();
    stored.extend(kept);
    reads_go_on(&anna, &stored).await;
    let first = anna.record("submissions", "large-0").await.ok();
    assert_eq!((first["record"]["version"].as_i64(), first["record"]["note"].as_str().unwrap().as_bytes()[0]), (Some(1), b'a'));

    disk.empty();
    until_accepted(&tills[2], "after", &mut stored).await;
    reads_go_on(&anna, &stored).await;
    // What was refused is sent again, and now goes through.
    for (body, ids) in refused {
        let (status, answer) = attempt(&tills[2], &body).await.unwrap();
        assert_eq!((status, accepted(&answer)), (200, ids.clone()));
        stored.extend(ids);
    }
    let (status, answer) = attempt(&tills[1], &larger).await.unwrap();
    assert_eq!((status, answer["conflicts"].as_array().map(Vec::len)), (200, Some(8)), "{answer:.300}");
    serving.stop();
    let rows = rows(&directory);
    assert!(rows.keys().eq(stored.iter()));
    let twice = |id: &str| if id.starts_with("large-") { (2, 2) } else { (1, 1) };
    assert!(rows.iter().all(|(id, count)| *count == twice(id)), "{rows:?}");
}

/// What a process has caused to be written to disks, bytes.
fn written(serving: &Serving) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", serving.child.id())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// Every file of a directory, with its size and the time of its last change.
fn files(directory: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let data = entry.metadata().unwrap();
            (entry.file_name().to_string_lossy().into_owned(), (data.len(), data.modified().unwrap()))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_appliance_writes_nothing_to_the_disk() {
    let _quiet = LOOPBACK.read().await;
    let directory = tempfile::tempdir().unwrap();
    let (serving, mut anna, mut tills) = office(directory.path(), 2).await;
    for n in 0..10 {
        tills[0].push_one("submissions", json!({ "id": format!("s{n}") })).await.applied("submissions", &format!("s{n}"));
        tills[1].sync().await;
        anna.sync().await;
    }
    let state = || (written(&serving), files(directory.path()));
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut before, mut since) = (state(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = state();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "it does not come to rest");
    }
    // Devices ask, people look, nobody changes anything.
    let (idle, mut asked) = (Instant::now(), 0);
    while idle.elapsed() < Duration::from_secs(5) {
        for device in tills.iter_mut().chain([&mut anna]) {
            let pulled = device.sync().await;
            assert!(asked < 3 || pulled.ids().is_empty());
            assert_eq!(device.get("/api/v1/sync/status").await.status, 200);
            asked += 1;
        }
        assert_eq!(anna.record("submissions", "s1").await.status, 200);
        assert_eq!(anna.get("/healthz").await.status, 200);
        assert_eq!(anna.get("/metrics").await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state(), before, "after {asked} idle polls");
    assert!(asked > 100, "{asked}");
    // The eyes are open: a change is seen.
    tills[0].push_one("submissions", json!({ "id": "one-more" })).await.applied("submissions", "one-more");
    assert_ne!(state(), before);
    // What was kept in memory is written when it stops.
    let address = serving.address;
    serving.stop();
    let serving = Serving::start(directory.path());
    assert_ne!(serving.address, address);
    anna.address = serving.address;
    let status = anna.get("/api/v1/sync/status").await.ok();
    assert!(status["devices"].as_array().unwrap().iter().all(|device| device["last_pull"].is_string()), "{}", status["devices"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_was_begun_and_leaves_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let (mut serving, _anna, tills) = office(directory.path(), 4).await;
    let load = Load::start(&tills, "work");
    load.reaches(60).await;
    let asked = Instant::now();
    serving.signal("TERM");
    let status = serving.ended(Duration::from_secs(10)).expect("it did not end within 10 s");
    assert_eq!(status.code(), Some(0), "{}", serving.log.text());
    let took = asked.elapsed();
    let pushes = load.end().await;
    let log = directory.path().join("backroom.db-wal");
    assert_eq!(std::fs::metadata(&log).map_or(0, |data| data.len()), 0, "the log was checkpointed");
    let stored = rows(directory.path());
    let mut unanswered = 0;
    for (_, _, ids, answered) in &pushes {
        let there = ids.iter().filter(|id| stored.get(*id) == Some(&(1, 1))).count();
        assert!(there == 3 || (there == 0 && !answered), "{ids:?}: {there} of 3");
        unanswered += usize::from(!answered);
    }
    assert_eq!(unanswered, tills.len(), "each device had its last push refused");
    assert!(took < Duration::from_secs(5), "{took:?}: no request took so long");
}
