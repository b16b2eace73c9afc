//! Seen from outside: `/metrics`, a manager's figures, and what is known of how far devices are.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use backroom::domain::actor::Role;
use backroom::store::Clock;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol};

use crate::support::process::{self, BINARY, Serving};
use crate::support::{Appliance, Device, LOOPBACK};

const RULES: &str = r#"
[tables.forms]
rule = "manager_wins"
write = "manager"
[tables.visits]
rule = "server_wins"
scope = "store"
[tables.cases]
rule = "manual"
scope = "store"
[tables.payroll]
read = "manager"
write = "manager"
"#;

const STATUS: &str = "/api/v1/sync/status";
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// Samples by name and labels, as they are written.
type Samples = BTreeMap<String, f64>;

/// Reads OpenMetrics text, strictly: every sample belongs to the family that was described before it, every family is described
/// once, the samples of a family stand together, and the text ends with its end.
fn parse(text: &str) -> Samples {
    let (mut samples, mut families, mut family) = (Samples::new(), BTreeSet::new(), (String::new(), String::new()));
    let body = text.strip_suffix("# EOF\n").expect("the end");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && families.insert(name.to_owned()), "{line}");
            family = (name.to_owned(), String::new());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name == family.0 && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            family.1 = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.strip_suffix('}').unwrap()));
            let endings: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                _ => &["_bucket", "_sum", "_count"],
            };
            assert!(endings.iter().any(|ending| format!("{}{ending}", family.0) == name), "{line} is not of {family:?}");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                assert!(["result", "rule", "winner", "le", "version"].contains(&key), "{line}");
                assert!(value.len() > 2 && value.starts_with('"') && value.ends_with('"'), "{line}");
            }
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line} stands twice");
        }
    }
    samples
}

/// Looks at an appliance as a program of its machine.
async fn look(office: &Appliance) -> Samples {
    let _quiet = LOOPBACK.read().await;
    let answer = Device::stranger(office.address).get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(answer.status, 200, "{}", answer.text);
    parse(&answer.text)
}

/// A sample that is there.
#[track_caller]
fn of(samples: &Samples, name: &str) -> f64 {
    *samples.get(&format!("backroom_{name}")).unwrap_or_else(|| panic!("there is no {name}: {samples:#?}"))
}

fn sum(samples: &Samples, family: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(&format!("backroom_{family}{{"))).map(|(_, value)| value).sum()
}

fn changes(samples: &Samples) -> [f64; 5] {
    ["applied", "merged", "noop", "conflict", "rejected"].map(|result| of(samples, &format!("sync_changes_total{{result=\"{result}\"}}")))
}

async fn figures(device: &Device, window: &str) -> Value {
    device.get(STATUS).await.ok()["figures"][window].clone()
}

/// A device as its own user's manager sees it.
async fn seen(by: &Device, device: &Device) -> Value {
    by.get(&format!("/api/v1/sync/devices/{}", device.id)).await.ok()
}

/// One change of each kind, a dry run and an undone push.
async fn one_of_each(mia: &Device, tom: &Device) {
    tom.push_one("visits", json!({ "id": "v1", "a": 1, "b": 1 })).await.applied("visits", "v1");
    tom.push_one("visits", json!({ "id": "v1", "version": 1, "a": 1, "b": 1 })).await.applied("visits", "v1");
    mia.push_one("visits", json!({ "id": "v1", "store_id": "north", "version": 1, "a": 2, "b": 1 })).await.applied("visits", "v1");
    let merged = tom.operate(json!({ "table": "visits", "id": "v1", "op": "update", "patch": { "b": 2 }, "base": { "version": 1 } })).await;
    assert_eq!(merged.applied("visits", "v1")["status"], "merged");
    let clash = |value: i64| json!({ "table": "visits", "id": "v1", "op": "update", "patch": { "a": value }, "base": { "version": 1 } });
    assert_eq!(tom.operate(clash(3)).await.conflict("v1")["winner"], "server");
    tom.push_one("forms", json!({ "id": "f1" })).await.rejected("f1");
    tom.push(json!({ "operations": [clash(4)], "dry_run": true })).await.conflict("v1");
    let all = json!({ "operations": [clash(5)], "changes": { "visits": [{ "id": "v2" }] }, "atomic": true });
    tom.try_push(all).await.refused(409, "batch_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_those_of_what_was_done() {
    let office = Appliance::with(RULES).await;
    let (mia, mut tom) = (office.manager("mia").await, office.till("tom", "north").await);
    let before = look(&office).await;
    assert_eq!((changes(&before), of(&before, "sync_open_conflicts")), ([0.0; 5], 0.0));
    assert_eq!((sum(&before, "sync_requests_total"), of(&before, "sync_devices")), (0.0, 2.0));
    assert_eq!(figures(&mia, "24h").await, figures(&mia, "7d").await);
    assert_eq!(
        figures(&mia, "24h").await,
        json!({ "syncs": 0, "failed_syncs": 0, "sync_success_rate": 1.0, "changes": 0, "conflicts": 0, "conflict_rate": 0.0,
                "average_sync_ms": null, "devices_behind": 0 })
    );

    one_of_each(&mia, &tom).await;
    assert_eq!(tom.sync().await.ids(), ["visits/v1"]);
    assert!(tom.sync().await.ids().is_empty());
    tom.try_pull(json!({ "cursor": "nonsense" })).await.refused(400, "invalid_cursor");
    tom.try_push(json!({ "changes": 7 })).await.refused(400, "invalid_request");

    let now = look(&office).await;
    assert_eq!(changes(&now), [2.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(of(&now, "sync_conflicts_total{rule=\"server_wins\",winner=\"server\"}"), 1.0);
    assert_eq!(of(&now, "sync_pull_records_total"), 1.0);
    assert_eq!((of(&now, "sync_push_duration_seconds_count"), of(&now, "sync_pull_duration_seconds_count")), (8.0, 2.0));
    assert_eq!(of(&now, "sync_requests_total{result=\"ok\"}"), 10.0);
    assert_eq!(of(&now, "sync_requests_total{result=\"failed\"}"), 2.0);
    assert_eq!((of(&now, "sync_live_connections"), of(&now, "sync_devices_connected")), (0.0, 0.0));
    assert_eq!(of(&now, &format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert!(!now.keys().any(|name| name.contains("backup")), "there are no backups");
    // One and the same thing, counted in two places.
    assert_eq!(sum(&now, "sync_conflicts_total"), changes(&now)[3]);
    for verb in ["sync_push_duration_seconds", "sync_pull_duration_seconds", "sync_commit_batch_size"] {
        assert_eq!(of(&now, &format!("{verb}_bucket{{le=\"+Inf\"}}")), of(&now, &format!("{verb}_count")));
        assert!(of(&now, &format!("{verb}_sum")) > 0.0);
    }
    let status = mia.get(STATUS).await.ok();
    assert_eq!(status["writer"]["jobs"], of(&now, "sync_commit_batch_size_sum") as i64);
    assert_eq!(status["writer"]["commits"], of(&now, "sync_commit_batch_size_count") as i64);
    assert_eq!(status["database_bytes"], of(&now, "sync_db_bytes") as i64);

    let mut day = status["figures"]["24h"].clone();
    let average = day["average_sync_ms"].take().as_f64().unwrap();
    let whole = of(&now, "sync_push_duration_seconds_sum") + of(&now, "sync_pull_duration_seconds_sum");
    assert!((average - whole * 100.0).abs() < 0.01, "{average} ms of ten, {whole} s together");
    assert_eq!(
        day,
        json!({ "syncs": 12, "failed_syncs": 2, "sync_success_rate": 10.0 / 12.0, "changes": 3, "conflicts": 1, "conflict_rate": 0.25,
                "average_sync_ms": null, "devices_behind": 1 })
    );
    assert_eq!(status["counts"]["conflict_rate_24h"], 0.25);
    // The other one never pulled.
    assert_eq!(of(&now, "sync_devices_behind"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_conflict_and_a_retry_are_counted_as_they_are_answered() {
    let office = Appliance::with(RULES).await;
    let (mia, tom) = (office.manager("mia").await, office.till("tom", "north").await);
    mia.push_one("cases", json!({ "id": "c", "store_id": "north", "n": 1 })).await.applied("cases", "c");
    let mine = json!({ "operations": [{ "op_id": "o", "table": "cases", "id": "c", "op": "create", "data": { "n": 2 }, "base": null }] });
    tom.push(mine.clone()).await.conflict("c");
    assert_eq!(of(&look(&office).await, "sync_open_conflicts"), 1.0);
    tom.push(mine).await.conflict("c");
    let now = look(&office).await;
    assert_eq!(of(&now, "sync_conflicts_total{rule=\"manual\",winner=\"none\"}"), 2.0);
    assert_eq!((of(&now, "sync_open_conflicts"), figures(&mia, "24h").await["conflicts"].as_i64()), (1.0, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_known_device_is_refused_is_a_failed_sync_and_what_strangers_try_is_none() {
    let office = Appliance::with(&format!("{RULES}\n[limits]\nrequests_per_second = 1\nrequests_burst = 3\nbody_bytes = 2048\n")).await;
    let mia = office.manager("mia").await;
    let failed = async || of(&look(&office).await, "sync_requests_total{result=\"failed\"}");
    let stranger = Device { token: "bkr_dev_nobody".into(), ..mia.clone() };
    for _ in 0..9 {
        stranger.try_pull(json!({})).await.refused(401, "unauthorized");
    }
    let away = office.device("mia", "away").await;
    away.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", away.id), None).await.ok();
    away.try_push(json!({})).await.refused(401, "device_revoked");
    assert_eq!(failed().await, 0.0);

    let slim = office.device("mia", "slim").await;
    slim.try_push(json!({ "x": "x".repeat(2048) })).await.refused(413, "payload_too_large");
    assert_eq!(failed().await, 1.0);
    slim.try_pull(json!({ "tables": ["nothing"] })).await.refused(422, "unknown_table");
    let mut served = 0.0;
    loop {
        let answer = slim.try_pull(json!({})).await;
        if answer.status != 200 {
            break answer.refused(429, "rate_limited");
        }
        served += 1.0;
    }
    assert_eq!(failed().await, 3.0);
    assert!(process::run(&office.directory, &["pause"], "").status.success());
    let keen = office.device("mia", "keen").await;
    office.becomes(async || office.app.store.accounts.now().paused.then_some(())).await;
    keen.try_push(json!({})).await.refused(503, "paused");
    assert_eq!((failed().await, of(&look(&office).await, "sync_requests_total{result=\"ok\"}")), (4.0, served));
    assert_eq!(figures(&office.device("mia", "2").await, "24h").await["failed_syncs"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_connections_and_what_is_pushed_over_them_are_counted() {
    let office = Appliance::with(&format!("{RULES}\n[limits]\nrequests_per_second = 1\nrequests_burst = 4\n")).await;
    let (mia, tom) = (office.manager("mia").await, office.till("tom", "north").await);
    let open = async |device: &Device| {
        let words = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let request = device.request(Method::GET, "/api/v1/sync/ws");
        let answer = words.into_iter().fold(request, |request, (name, value)| request.header(name, value)).send().await.unwrap();
        WebSocketStream::from_raw_socket(answer.upgrade().await.unwrap(), protocol::Role::Client, None).await
    };
    let counts = async || {
        let now = look(&office).await;
        (of(&now, "sync_live_connections"), of(&now, "sync_devices_connected"))
    };
    let (one, two, mut three) = (open(&mia).await, open(&mia).await, open(&tom).await);
    office.becomes(async || (counts().await == (3.0, 2.0)).then_some(())).await;
    drop((one, two));
    office.becomes(async || (counts().await == (1.0, 1.0)).then_some(())).await;

    let mut answered = BTreeMap::<String, u32>::new();
    for n in 0..9 {
        let push = json!({ "type": "push_change", "payload": { "changes": { "visits": [{ "id": format!("v{n}") }] } } });
        three.send(Message::text(push.to_string())).await.unwrap();
    }
    while answered.get("sync_complete").unwrap_or(&0) + answered.get("error").unwrap_or(&0) < 9 {
        let Message::Text(text) = three.next().await.unwrap().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        *answered.entry(message["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let (now, served) = (look(&office).await, f64::from(answered["sync_complete"]));
    assert_eq!(of(&now, "sync_requests_total{result=\"ok\"}"), served);
    assert_eq!(of(&now, "sync_requests_total{result=\"failed\"}"), f64::from(answered["error"]));
    assert_eq!((of(&now, "sync_push_duration_seconds_count"), changes(&now)[0]), (served, served));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_it_and_this_machine_and_nothing_else() {
    let token = "m-1f3b7a";
    let office = Appliance::with(&format!("{RULES}\n[metrics]\ntoken = \"{token}\"\n")).await;
    let (mia, nobody) = (office.manager("mia").await, Device::stranger(office.address));
    let get = |headers: &[(&str, &str)]| {
        let request = headers.iter().fold(nobody.request(Method::GET, "/metrics"), |request, (name, value)| request.header(*name, *value));
        nobody.send(request)
    };
    let bearer = format!("Bearer {token}");
    {
        let _quiet = LOOPBACK.read().await;
        get(&[]).await.ok();
        for name in ["Forwarded", "X-Forwarded-For", "Via", "X-Real-IP"] {
            let refused = get(&[(name, "for=127.0.0.1")]).await;
            refused.refused(401, "unauthorized");
            assert!(!refused.text.contains("backroom_"));
            get(&[(name, "127.0.0.1"), ("authorization", &bearer)]).await.ok();
        }
        let via = [("via", "1.1 proxy")];
        for wrong in
            ["Bearer m-1f3b7", "Bearer m-1f3b7aa", "Bearer M-1F3B7A", "Bearer ", "Basic m-1f3b7a", &format!("Bearer {}", mia.token)]
        {
            get(&[via[0], ("authorization", wrong)]).await.refused(401, "unauthorized");
        }
        // The scraper's usual words, and those of one that knows the older format alone.
        let newest = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert!(get(&[("accept", newest)]).await.text.ends_with("# EOF\n"));
        let plain = get(&[("accept", "text/plain")]).await;
        assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4");
        assert!(plain.text.contains("# TYPE backroom_sync_changes_total counter\n") && !plain.text.contains("EOF"), "{}", plain.text);
    }
    // tailscaled runs on this machine, or beside it: whoever comes from here may be anybody.
    let _alone = LOOPBACK.write().await;
    let place = tempfile::tempdir().unwrap();
    let tailscaled = UnixListener::bind(place.path().join("tailscaled.sock")).unwrap();
    get(&[]).await.refused(401, "unauthorized");
    get(&[("authorization", &bearer)]).await.ok();
    drop(tailscaled);
    get(&[]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_no_token_opens_it() {
    let office = Appliance::with(RULES).await;
    let nobody = Device::stranger(office.address);
    for shown in ["Bearer ", "Bearer x", "Bearer"] {
        let request = nobody.request(Method::GET, "/metrics").header("via", "1.1 proxy").header("authorization", shown);
        nobody.send(request).await.refused(401, "unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let show = |variables: &[(&str, &str)]| {
        let output = process::command(directory.path(), &["config", "show"]).envs(variables.iter().copied()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains("s3cret"), "{text}");
        (
            output.status.success(),
            text.lines().find(|line| line.contains("metrics") || line.contains("METRICS")).unwrap_or_default().to_owned(),
        )
    };
    let file = directory.path().join("token");
    std::fs::write(&file, "s3cret-of-a-file\n").unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(show(&[]).1.split_whitespace().collect::<Vec<_>>(), ["metrics.token", "\"\"", "default"]);
    assert!(show(&[("BACKROOM_METRICS_TOKEN", "s3cret")]).1.ends_with("BACKROOM_METRICS_TOKEN"));
    assert!(show(&[("BACKROOM_METRICS_TOKEN_FILE", file)]).1.ends_with("BACKROOM_METRICS_TOKEN_FILE"));
    std::fs::write(directory.path().join("backroom.toml"), "[metrics]\ntoken = \"s3cret\"\n").unwrap();
    assert!(show(&[]).1.ends_with("backroom.toml"));
    std::fs::write(directory.path().join("backroom.toml"), "[metrics]\ntoken = s3cret\n").unwrap();
    assert!(!show(&[]).0, "a mistake");
    std::fs::remove_file(directory.path().join("backroom.toml")).unwrap();
    std::fs::write(directory.path().join("empty"), "\n").unwrap();
    for wrong in ["empty", "absent"] {
        let (fine, line) = show(&[("BACKROOM_METRICS_TOKEN_FILE", directory.path().join(wrong).to_str().unwrap())]);
        assert!(!fine && line.contains("BACKROOM_METRICS_TOKEN_FILE"), "{line}");
    }
    let mut command = Command::new(BINARY);
    command.arg("--data-dir").arg(directory.path()).args(["serve", "--listen", "127.0.0.1:0"]).env("BACKROOM_METRICS_TOKEN_FILE", file);
    let serving = Serving::spawn(directory.path(), command);
    let scraper = Device { token: "s3cret-of-a-file".into(), ..Device::stranger(serving.address) };
    let request = |device: &Device| device.request(Method::GET, "/metrics").header("via", "1.1 proxy");
    parse(&scraper.send(request(&scraper)).await.text);
    let other = Device { token: "s3cret".into(), ..scraper };
    other.send(request(&other)).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_named() {
    let office = Appliance::with(RULES).await;
    let mia = office.manager("mia-quill").await;
    let tom = office.till("tom-zephyr", "store-vortex").await;
    let hostile = json!({ "changes": { "visits\"} 1\nx{y=\"": [{ "id": "i" }], "visits": [{ "id": "rec-jasper", "note": "wyvern" }] },
                          "report": { "name": "till-krypton", "pending": 3, "app_version": "9.9-onyx" } });
    tom.push(hostile).await;
    mia.pull().await;
    let _quiet = LOOPBACK.read().await;
    let text = Device::stranger(office.address).get("/metrics").await.text;
    parse(&text);
    for name in ["quill", "zephyr", "vortex", "jasper", "wyvern", "krypton", "onyx", "visits", &tom.id, &tom.token] {
        assert!(!text.contains(name), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_in_sync_once_it_was_given_all_of_its_view() {
    let office = Appliance::with(RULES).await;
    let mut mia = office.manager("mia").await;
    let (mut tom, mut dora) = (office.till("tom", "north").await, office.till("dora", "south").await);
    let boss = mia.clone();
    let in_sync = async |device: &Device| seen(&boss, device).await["in_sync"].clone();
    assert_eq!(in_sync(&tom).await, true, "there is nothing to be given");
    tom.push_one("visits", json!({ "id": "v1" })).await.applied("visits", "v1");
    assert_eq!([in_sync(&tom).await, in_sync(&dora).await, in_sync(&mia).await], [false, true, false]);
    assert_eq!(figures(&mia, "24h").await["devices_behind"], 2);
    tom.sync().await;
    mia.sync().await;
    assert_eq!([in_sync(&tom).await, in_sync(&dora).await, in_sync(&mia).await], [true, true, true]);

    // What it may not see does not count, and a page that is not the last is not all.
    mia.push_one("payroll", json!({ "id": "p" })).await.applied("payroll", "p");
    mia.push(json!({ "changes": { "forms": [{ "id": "f1" }, { "id": "f2" }] } })).await;
    dora.push_one("visits", json!({ "id": "v2" })).await.applied("visits", "v2");
    let page = tom.pull_with(json!({ "cursor": tom.cursor, "limit": 1 })).await;
    assert_eq!((in_sync(&tom).await, &page.0["has_more"]), (json!(false), &json!(true)));
    tom.cursor = Some(page.cursor());
    assert_eq!(tom.sync().await.ids(), ["forms/f2"]);
    assert_eq!(in_sync(&tom).await, true);

    // A service sees every store, and not what is for managers: that is no news to it, the rest is.
    office.user("sue", Role::Service, &[]).await;
    let mut sue = office.device("sue", "1").await;
    sue.sync().await;
    mia.push_one("payroll", json!({ "id": "p2" })).await.applied("payroll", "p2");
    assert_eq!(in_sync(&sue).await, true);
    mia.push_one("visits", json!({ "id": "v3", "store_id": "west" })).await.applied("visits", "v3");
    assert_eq!(in_sync(&sue).await, false);
    sue.pull_with(json!({ "tables": ["forms", "cases"] })).await;
    assert_eq!(in_sync(&sue).await, false);
    sue.pull_with(json!({ "tables": ["visits"] })).await;
    assert_eq!(in_sync(&sue).await, true);

    // One table after the other.
    assert_eq!(in_sync(&dora).await, false);
    dora.pull_with(json!({ "tables": ["forms"] })).await;
    assert_eq!(in_sync(&dora).await, false);
    dora.pull_with(json!({ "tables": ["visits"] })).await;
    assert_eq!(in_sync(&dora).await, true);
    // It lost what it had, and begins again.
    dora.pull_with(json!({ "cursor": null, "limit": 1 })).await;
    assert_eq!(in_sync(&dora).await, false);
    dora.cursor = None;
    dora.sync().await;
    assert_eq!(in_sync(&dora).await, true);

    // A record that leaves for another store is news for both.
    mia.sync().await;
    mia.push_one("visits", json!({ "id": "v1", "version": 1, "store_id": "south" })).await.applied("visits", "v1");
    assert_eq!([in_sync(&tom).await, in_sync(&dora).await], [false, false]);
    assert_eq!(tom.sync().await.evicted(), ["visits/v1"]);
    assert_eq!([in_sync(&tom).await, in_sync(&dora).await], [true, false]);

    // Another role is another view, also after a restart.
    office.role("tom", Role::Store, &["north", "south"]).await;
    assert_eq!(in_sync(&tom).await, false);
    tom.sync().await;
    mia.sync().await;
    assert_eq!([in_sync(&tom).await, in_sync(&mia).await], [true, true]);
    let office = office.restart(RULES).await;
    mia.address = office.address;
    assert_eq!([seen(&mia, &tom).await["in_sync"].clone(), seen(&mia, &dora).await["in_sync"].clone()], [true, false]);
    mia.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", tom.id), None).await.ok();
    assert_eq!(seen(&mia, &tom).await["in_sync"], Value::Null);
    assert_eq!(figures(&mia, "24h").await["devices_behind"], 2, "dora's and sue's: a revoked one is not behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_of_their_hours() {
    let office = Appliance::with(RULES).await;
    let (mia, tom) = (office.manager("mia").await, office.till("tom", "north").await);
    let count = async |window: &str| {
        let figures = figures(&mia, window).await;
        ["syncs", "changes", "devices_behind"].map(|name| figures[name].as_i64().unwrap())
    };
    tom.push_one("visits", json!({ "id": "v1" })).await.applied("visits", "v1");
    assert_eq!([count("24h").await, count("7d").await], [[1, 1, 2], [1, 1, 2]]);
    office.clock.advance(25 * HOUR);
    // Neither was seen on this day, and signing in is no sync.
    assert_eq!([count("24h").await, count("7d").await], [[0, 0, 0], [1, 1, 2]]);
    mia.pull().await;
    assert_eq!([count("24h").await, count("7d").await], [[1, 0, 0], [2, 1, 1]]);
    office.clock.advance(6 * 24 * HOUR);
    assert_eq!([count("24h").await, count("7d").await], [[0, 0, 0], [1, 0, 0]]);
    assert_eq!(of(&look(&office).await, "sync_devices_behind"), 1.0, "an active device, whenever it was seen");
    office.clock.advance(90 * 24 * HOUR);
    assert_eq!(of(&look(&office).await, "sync_devices"), 0.0);
    let mut roles = Vec::new();
    for (user, role) in [("sue", Role::Service), ("ada", Role::Admin)] {
        office.user(user, role, &[]).await;
        roles.push(office.device(user, "1").await.get(STATUS).await.ok());
    }
    roles.push(tom.get(STATUS).await.ok());
    let (figures, queues): (Vec<bool>, Vec<bool>) =
        roles.iter().map(|status| (status["figures"].is_null(), status["queue"].is_null())).unzip();
    assert_eq!((figures, queues), (vec![true, false, true], vec![true, false, true]));
}

/// A week's figures outlive a retention that is shorter than a week.
#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_a_week_and_takes_the_rest() {
    let office = Appliance::with(&format!("{RULES}\n[retention]\ndays = 1\n")).await;
    let ada = office.admin("ada").await;
    ada.push_one("visits", json!({ "id": "v0", "store_id": "north" })).await.applied("visits", "v0");
    office.clock.advance(11 * SECOND);
    ada.push_one("visits", json!({ "id": "v1", "store_id": "north" })).await.applied("visits", "v1");
    let rows =
        async || (office.ask::<i64>("SELECT count(*) FROM hours").await, office.ask::<i64>("SELECT sum(changes) FROM activity").await);
    assert_eq!(rows().await, (1, 2));
    let clean = async || ada.post("/api/v1/sync/cleanup", json!({ "days_old": 1 })).await.ok();
    office.clock.advance(6 * 24 * HOUR);
    clean().await;
    let week = figures(&ada, "7d").await;
    assert_eq!((&week["changes"], &week["syncs"]), (&json!(2), &json!(2)));
    office.clock.advance(3 * 24 * HOUR);
    clean().await;
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM activity").await, 0);
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM hours").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_figures() {
    let office = Appliance::with(RULES).await;
    let (mut mia, mut tom) = (office.manager("mia").await, office.till("tom", "north").await);
    one_of_each(&mia, &tom).await;
    tom.push(json!({ "report": { "pending": 2, "oldest_pending_s": 10 } })).await;
    tom.sync().await;
    tom.try_pull(json!({ "cursor": "nonsense" })).await.refused(400, "invalid_cursor");
    let of_status = |status: Value| [status["figures"].clone(), status["queue"]["pending"].clone(), status["counts"].clone()];
    let before = of_status(mia.get(STATUS).await.ok());
    let office = office.restart(RULES).await;
    (mia.address, tom.address) = (office.address, office.address);
    assert_eq!(of_status(mia.get(STATUS).await.ok()), before);
    let age = mia.get(STATUS).await.ok()["queue"]["oldest_pending_s"].as_f64().unwrap();
    assert!((10.0..40.0).contains(&age), "{age}");
    // Counters begin anew with the process, as Prometheus expects of them.
    assert_eq!(sum(&look(&office).await, "sync_requests_total"), 0.0);
}

/// The database and its log as they are at this moment: what a kill leaves.
fn copy(directory: &Path) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in ["backroom.db", "backroom.db-wal"] {
        std::fs::copy(directory.join(name), place.path().join(name)).unwrap();
    }
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_more_than_was_not_written_yet() {
    let office = Appliance::with(RULES).await;
    let (mia, tom) = (office.manager("mia").await, office.till("tom", "north").await);
    let push = async |id: &str| drop(tom.push_one("visits", json!({ "id": id })).await.applied("visits", id).clone());
    push("v1").await;
    for _ in 0..3 {
        tom.pull().await;
    }
    office.clock.advance(11 * SECOND);
    // This one takes along what was done before it; the next one comes too soon to.
    push("v2").await;
    push("v3").await;
    tom.pull().await;
    let now = figures(&mia, "24h").await;
    assert_eq!((&now["syncs"], &now["changes"]), (&json!(7), &json!(3)));
    let left = copy(&office.directory);
    let after = Appliance::open(left.path().to_owned(), RULES, Clock::default()).await;
    let mia = Device { address: after.address, ..mia };
    let then = figures(&mia, "24h").await;
    assert_eq!((&then["syncs"], &then["changes"]), (&json!(4), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_and_pulling_write_nothing() {
    let office = Appliance::with(RULES).await;
    let (mia, tom) = (office.manager("mia").await, office.till("tom", "north").await);
    tom.push_one("visits", json!({ "id": "v1" })).await.applied("visits", "v1");
    let state = async || {
        let commits = mia.get(STATUS).await.ok()["writer"]["commits"].clone();
        (commits, std::fs::read(office.directory.join("backroom.db-wal")).unwrap())
    };
    let before = state().await;
    for _ in 0..5 {
        office.clock.advance(20 * SECOND);
        tom.pull().await;
        tom.try_pull(json!({ "cursor": "nonsense" })).await.refused(400, "invalid_cursor");
        look(&office).await;
        figures(&mia, "7d").await;
    }
    assert!(state().await == before, "something was written");
    // The next change takes it along.
    tom.push_one("visits", json!({ "id": "v2" })).await.applied("visits", "v2");
    assert_eq!(office.ask::<i64>("SELECT sum(served) * 100 + sum(failed) FROM hours").await, 605);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_added_up_and_grow_older() {
    let office = Appliance::with(RULES).await;
    let (mia, tom, dora) = (office.manager("mia").await, office.till("tom", "north").await, office.till("dora", "south").await);
    let nothing = json!({ "pending": 0, "failed": 0, "attempts": 0, "failures": 0, "oldest_pending_s": null });
    assert_eq!(mia.get(STATUS).await.ok()["queue"], nothing);
    tom.push(json!({ "report": { "pending": 3, "failed": 1, "attempts": 20, "failures": 4, "oldest_pending_s": 60.5 } })).await;
    dora.push(json!({ "report": { "pending": 0, "attempts": 5, "oldest_pending_s": 9000 } })).await;
    office.clock.advance(100 * SECOND);
    let queue = mia.get(STATUS).await.ok()["queue"].clone();
    let age = queue["oldest_pending_s"].as_f64().unwrap();
    assert!((160.5..190.0).contains(&age), "{age}");
    let now = look(&office).await;
    for (name, value) in [("pending", 3), ("failed", 1), ("attempts", 25), ("failures", 4)] {
        assert_eq!(queue[name], value, "{name}");
        assert_eq!(of(&now, &format!("sync_devices_{name}")), f64::from(value), "{name}");
    }
    assert!((160.5..190.0).contains(&of(&now, "sync_oldest_pending_seconds")));
    let shown = seen(&mia, &tom).await;
    assert_eq!((&shown["report"]["attempts"], &shown["report"]["failures"], &shown["pending"]), (&json!(20), &json!(4), &json!(3)));
    assert!(shown["reported_at"].is_string() && seen(&mia, &mia).await["reported_at"].is_null());
    mia.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", tom.id), None).await.ok();
    assert_eq!(mia.get(STATUS).await.ok()["queue"]["pending"], 0, "a revoked device has nothing to wait for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_out_of_its_mind_refuses_no_push_and_spoils_no_sum() {
    let office = Appliance::with(RULES).await;
    let (mia, tom, dora) = (office.manager("mia").await, office.till("tom", "north").await, office.till("dora", "south").await);
    tom.push(json!({ "report": { "pending": 2, "oldest_pending_s": 5 } })).await;
    let reports = [
        r#"{"pending":-1,"failed":"many","attempts":1.5,"failures":[],"oldest_pending_s":-3}"#,
        r#"{"pending":18446744073709551615,"failed":18446744073709551615,"oldest_pending_s":1e308}"#,
        r#"{"pending":99999999999999999999999,"oldest_pending_s":1e400}"#,
        r#"{"pending":1,"pending":2}"#,
        r#"{"name":7,"app_version":{},"platform":null}"#,
        r#"[1,2,3]"#,
        r#""fine""#,
        "7",
        "null",
    ];
    for (n, report) in reports.iter().enumerate() {
        let body = format!(r#"{{"report":{report},"changes":{{"visits":[{{"id":"r{n}"}}]}}}}"#);
        let request = dora.request(Method::POST, "/api/v1/sync/push").body(body);
        let answer = dora.send(request).await.ok();
        assert_eq!(answer["applied"]["visits"][0]["id"], format!("r{n}"), "{report}");
        let queue = mia.get(STATUS).await.ok()["queue"].clone();
        let (pending, age) = (queue["pending"].as_u64().unwrap(), queue["oldest_pending_s"].as_f64().unwrap());
        assert!((2..=1_000_000_000_002).contains(&pending) && (5.0..2e12).contains(&age), "{report}: {queue}");
        assert!(of(&look(&office).await, "sync_oldest_pending_seconds").is_finite());
        seen(&mia, &dora).await;
    }
}
