//! The command line as an owner meets it: exit codes, files, what it prints, and what a running appliance makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::process::{self, Serving, add_guest, command, invite, run};
use crate::support::{Device, PASSWORD};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that succeeds, and gives what it printed.
#[track_caller]
fn fine(directory: &Path, arguments: &[&str]) -> String {
    fine_with(directory, arguments, "")
}

#[track_caller]
fn fine_with(directory: &Path, arguments: &[&str], input: &str) -> String {
    let output = run(directory, arguments, input);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {} {}", out(&output), err(&output));
    out(&output)
}

/// Runs a command that fails for a reason, and gives what it said.
#[track_caller]
fn fails(directory: &Path, arguments: &[&str], input: &str) -> String {
    let output = run(directory, arguments, input);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {} {}", out(&output), err(&output));
    assert!(err(&output).starts_with("backroom: ") && err(&output).lines().count() < 12, "{arguments:?}: {}", err(&output));
    err(&output)
}

/// Asks again until the answer is right, for so long.
async fn soon(within: Duration, what: &str, mut asks: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !asks().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn exit_codes_are_zero_for_fine_one_for_failed_two_for_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    assert!(fine(at, &["version"]).starts_with("backroom 0."));
    assert!(fine(at, &["--help"]).contains("healthcheck"));
    fails(at, &["user", "passwd", "nobody", "--password-stdin"], PASSWORD);
    let wrong: [&[&str]; 9] = [
        &["sing"],
        &["serve", "--listen", "here"],
        &["serve", "--port", "1"],
        &["user", "add"],
        &["user", "add", "anna"],
        &["user", "add", "anna", "--role", "queen"],
        // A password in an argument would stand in every process list and shell history.
        &["user", "add", "anna", "--role", "admin", "--password", "secret words"],
        &["user", "passwd", "anna", "secret words"],
        &["device", "invite"],
    ];
    for arguments in wrong {
        let output = run(at, arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains("Usage") || err(&output).contains("--help"), "{}", err(&output));
    }
    assert_eq!(run(at, &[], "").status.code(), Some(2));
    let help = fine(at, &["user", "add", "--help"]);
    assert!(help.contains("--password-stdin") && !help.contains("--password <"), "{help}");
}

#[test]
fn init_writes_a_preset_once_and_names_those_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("new/data");
    assert!(fails(&at, &["init", "--preset", "shop"], "").contains("there is: store, learning, course, teacher-hub, tracks"));
    assert!(!at.join("backroom.toml").exists());
    assert!(fine(&at, &["init"]).contains("backroom.toml"));
    assert_eq!((mode(&at), mode(&at.join("backroom.toml"))), (0o700, 0o600));
    let text = fs::read_to_string(at.join("backroom.toml")).unwrap();
    assert!(text.contains("[tables.submissions]") && text.contains("# "));
    fs::write(at.join("backroom.toml"), format!("{text}\n# mine\n")).unwrap();
    assert!(fails(&at, &["init", "--preset", "store"], "").contains("not overwritten"));
    assert!(fs::read_to_string(at.join("backroom.toml")).unwrap().ends_with("# mine\n"), "the owner's file is as it was");
    assert!(fine(&at, &["config", "check"]).contains("9 tables"));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_change_and_go_and_the_last_admin_stays() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let add = |name: &str, role: &str, more: &[&str], input: &str| {
        let arguments = [&["user", "add", name, "--role", role, "--password-stdin"], more].concat();
        run(at, &arguments, input)
    };
    assert!(err(&add("anna", "admin", &[], "short")).contains("at least 8"));
    assert!(err(&add("an na", "admin", &[], PASSWORD)).starts_with("backroom: "));
    assert!(err(&add("anna", "admin", &["--store", "A"], PASSWORD)).contains("sees all stores"));
    assert!(add("anna", "admin", &[], PASSWORD).status.success());
    assert!(err(&add("Anna", "store", &[], PASSWORD)).contains("already"));
    assert!(add("till", "store", &["--store", "A", "--store", "B"], &format!("{PASSWORD}\n")).status.success());
    let without = run(at, &["user", "add", "nina", "--role", "store"], "");
    assert!(without.status.code() == Some(1) && err(&without).contains("--password-stdin"), "{}", err(&without));
    let list: Value = serde_json::from_str(&fine(at, &["user", "list", "--json"])).unwrap();
    assert_eq!(
        list,
        json!([
            { "name": "anna", "role": "admin", "stores": [], "enabled": true },
            { "name": "till", "role": "store", "stores": ["A", "B"], "enabled": true },
        ])
    );

    for arguments in [&["user", "disable", "anna"][..], &["user", "role", "anna", "--role", "manager"]] {
        assert!(fails(at, arguments, "").contains("only admin"));
    }
    fine_with(at, &["user", "add", "berta", "--role", "admin", "--password-stdin"], PASSWORD);
    fine(at, &["user", "disable", "anna"]);
    assert!(fails(at, &["user", "disable", "berta"], "").contains("only admin"), "a disabled admin is none");
    fine(at, &["user", "enable", "anna"]);
    fine(at, &["user", "role", "berta", "--role", "store", "--store", "C"]);
    let list = fine(at, &["user", "list"]);
    assert!(list.lines().any(|line| line.starts_with("berta") && line.contains("store") && line.ends_with('C')), "{list}");

    // A running appliance takes all of it up.
    let serving = Serving::start(at);
    let mut till = serving.device("till", "till-1").await;
    fine_with(at, &["user", "passwd", "till", "--password-stdin"], "another long password");
    let login = |password: &str| json!({ "username": "till", "password": password });
    let stranger = Device::stranger(serving.address);
    assert_eq!(stranger.post("/api/v1/auth/login", login(PASSWORD)).await.status, 401);
    assert_eq!(stranger.post("/api/v1/auth/login", login("another long password")).await.status, 204);
    fine(at, &["user", "disable", "till"]);
    soon(Duration::from_secs(1), "a disabled user's device is refused", async || till.try_pull(json!({})).await.status == 401).await;
    till.try_pull(json!({})).await.refused(401, "device_revoked");
    fine(at, &["user", "enable", "till"]);
    soon(Duration::from_secs(1), "and taken again", async || till.try_pull(json!({})).await.status == 200).await;
    // Another store is another view: what the device holds of the old one goes.
    assert_eq!(till.sync().await.0["reset"], "first");
    assert_eq!(till.sync().await.0["reset"], false);
    fine(at, &["user", "role", "till", "--role", "store", "--store", "C"]);
    soon(Duration::from_secs(1), "the device gets a reset", async || till.sync().await.0["reset"] == "first").await;
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_invited_listed_and_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let serving = Serving::start(at);
    add_guest(at, "till", "store", &["A"]);
    assert!(fails(at, &["device", "invite", "--user", "nobody"], "").contains("no user"));
    let shown = fine(at, &["device", "invite", "--user", "till", "--url", "http://box.example.ts.net:8484/"]);
    let code = shown.lines().find_map(|line| line.trim().strip_prefix("code  ")).unwrap();
    assert!(shown.contains(&format!("http://box.example.ts.net:8484/join#{code}")) && shown.contains('▀'), "{shown}");
    let quiet = invite(at, "till");
    assert_ne!(quiet, code);
    let enrol = async |code: &str, id: &str| {
        let body = json!({ "code": code, "device_id": id, "name": format!("The {id}") });
        Device::stranger(serving.address).post("/api/v1/devices/enroll", body).await
    };
    let first = enrol(&quiet, "d1").await.ok();
    assert_eq!((first["user"].as_str(), first["stores"][0].as_str()), (Some("till"), Some("A")));
    enrol(&quiet, "d2").await.refused(403, "invalid_code");
    enrol("AAAA-AAAA-AAAA", "d2").await.refused(403, "invalid_code");
    // As a person types it.
    enrol(&code.to_lowercase().replace('-', " "), "d2").await.ok();

    let device = Device { id: "d1".into(), token: first["token"].as_str().unwrap().into(), ..Device::stranger(serving.address) };
    device.push_one("submissions", json!({ "id": "s1" })).await.applied("submissions", "s1");
    let list: Value = serde_json::from_str(&fine(at, &["device", "list", "--json"])).unwrap();
    let ids: Vec<&str> = list.as_array().unwrap().iter().map(|device| device["device_id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"d1") && ids.contains(&"d2"), "{list}");
    fine(at, &["device", "revoke", "d1"]);
    soon(Duration::from_secs(1), "the device is refused", async || device.try_pull(json!({})).await.status == 401).await;
    device.try_push(json!({ "changes": {} })).await.refused(401, "device_revoked");
    let list = fine(at, &["device", "list"]);
    assert!(list.lines().any(|line| line.starts_with("d1 ") && line.contains("revoked")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("d2 ") && line.contains("active")), "{list}");
    assert!(fails(at, &["device", "revoke", "d9"], "").contains("no device"));
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_refuses_writes_within_a_second_and_reads_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let serving = Serving::start(at);
    let till = serving.guest("till", "store", &["A"]).await;
    till.push_one("submissions", json!({ "id": "s1" })).await.applied("submissions", "s1");
    fine(at, &["pause"]);
    let push = json!({ "changes": { "submissions": [{ "id": "s2" }] } });
    soon(Duration::from_secs(1), "writes are refused", async || till.try_push(push.clone()).await.status == 503).await;
    let answer = till.try_push(push.clone()).await;
    answer.refused(503, "paused");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    till.pull().await.record("submissions", "s1");
    assert_eq!(till.get("/api/v1/sync/status").await.ok()["status"], "paused");
    assert_eq!(till.record("submissions", "s1").await.status, 200);
    // It outlives a restart.
    serving.stop();
    let serving = Serving::start(at);
    let till = Device { address: serving.address, ..till };
    till.try_push(push.clone()).await.refused(503, "paused");
    fine(at, &["resume"]);
    soon(Duration::from_secs(1), "writes are accepted", async || till.try_push(push.clone()).await.status == 200).await;
    serving.stop();
}

#[test]
fn doctor_finds_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap();
    let checks = |output: &Output| -> (bool, Vec<(String, String)>) {
        let report: Value = serde_json::from_str(&out(output)).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let checks = report["checks"].as_array().unwrap().iter().map(|check| (text(&check["name"]), text(&check["finding"])));
        (report["ok"].as_bool().unwrap(), checks.collect())
    };
    let finding = |checks: &[(String, String)], name: &str| checks.iter().find(|(n, _)| n == name).unwrap().1.clone();

    let output = run(at, &["doctor", "--json"], "");
    let (ok, all) = checks(&output);
    assert_eq!((output.status.code(), ok, finding(&all, "database").as_str()), (Some(0), true, "warn"));
    assert!(fine(at, &["doctor"]).contains("There is no database yet"));
    assert!(!at.join("backroom.db").exists(), "a doctor only looks");

    process::add_user(at, "anna", "admin", &[]);
    let output = run(at, &["doctor", "--json"], "");
    let (ok, all) = checks(&output);
    assert!(ok && output.status.code() == Some(0));
    for name in ["directory", "file system", "rules", "schema", "integrity", "admin"] {
        assert_eq!(finding(&all, name), "ok", "{name}");
    }
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(finding(&checks(&run(at, &["doctor", "--json"], "")).1, "directory"), "warn");
    fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap();

    fs::write(at.join("backroom.toml"), "[tables.forms]\nrule = \"manger_wins\"\n").unwrap();
    let output = run(at, &["doctor"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("BAD   rules") && out(&output).contains("line 2, column 8"), "{}", out(&output));
    fs::remove_file(at.join("backroom.toml")).unwrap();

    // A page in the middle is overwritten.
    let mut bytes = fs::read(at.join("backroom.db")).unwrap();
    let pages = bytes.len() / 4_096;
    for page in pages / 3..pages {
        bytes[page * 4_096..(page + 1) * 4_096].fill(0x5a);
    }
    fs::write(at.join("backroom.db"), bytes).unwrap();
    let output = run(at, &["doctor"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(out(&output).contains("BAD   integrity"), "{}", out(&output));
    let output = run(at, &["doctor", "--json"], "");
    assert!(output.status.code() == Some(1) && !checks(&output).0);

    fs::write(at.join("backroom.db"), "this is no database at all, but long enough to look at, line after line. ".repeat(100)).unwrap();
    assert_eq!(run(at, &["doctor"], "").status.code(), Some(1));
    assert_eq!(run(&at.join("nowhere"), &["doctor"], "").status.code(), Some(1));
}

#[test]
fn healthcheck_tells_whether_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let serving = Serving::start(directory.path());
    let address = serving.address.to_string();
    assert_eq!(fine(directory.path(), &["healthcheck", "--listen", &address]), "ready\n");
    let any = format!("0.0.0.0:{}", serving.address.port());
    assert_eq!(fine(directory.path(), &["healthcheck", "--listen", &any]), "ready\n");
    let by_variable = command(directory.path(), &["healthcheck"]).env("BACKROOM_LISTEN", &address).output().unwrap();
    assert!(by_variable.status.success(), "{}", err(&by_variable));
    serving.stop();
    assert!(fails(directory.path(), &["healthcheck", "--listen", &address], "").contains("nobody listens"));
}

/// The line of a key in `config show`: value and origin.
fn shown(directory: &Path, key: &str, variables: &[(&str, &str)]) -> (String, String) {
    let output = command(directory, &["config", "show"]).envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{}", err(&output));
    let text = out(&output);
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap_or_else(|| panic!("{key}: {text}"));
    let mut words = line.split_whitespace().skip(1);
    let value = words.next().unwrap().trim_matches('"').to_owned();
    (value, words.collect::<Vec<_>>().join(" "))
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(shown(at, "server.listen", &[]), pair("0.0.0.0:8484", "default"));
    assert_eq!(shown(at, "tables.forms", &[]), pair("manager_wins", "preset store"));
    fs::write(at.join("backroom.toml"), "[server]\nlisten = \"127.0.0.1:1\"\n[tables.notes]\nrule = \"latest_wins\"\n").unwrap();
    assert_eq!(shown(at, "server.listen", &[]), pair("127.0.0.1:1", "backroom.toml"));
    assert_eq!(shown(at, "tables.notes", &[]), pair("latest_wins", "backroom.toml"));
    assert_eq!(shown(at, "retention.days", &[]), pair("90", "default"));
    assert_eq!(shown(at, "retention.days", &[("BACKROOM_RETENTION_DAYS", "30")]), pair("30", "BACKROOM_RETENTION_DAYS"));
    // The variable of the flag, which `serve` and `healthcheck` obey.
    assert_eq!(shown(at, "server.listen", &[("BACKROOM_LISTEN", "127.0.0.1:2")]), pair("127.0.0.1:2", "BACKROOM_LISTEN"));
    let wrong = command(at, &["config", "show"]).env("BACKROOM_RETENTION_DAYS", "many").output().unwrap();
    assert!(wrong.status.code() == Some(1) && err(&wrong).contains("BACKROOM_RETENTION_DAYS"), "{}", err(&wrong));

    // And a running appliance does as it is shown: each listens where the strongest word says.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (by_file, by_variable, by_flag) = (free(), free(), free());
    fs::write(at.join("backroom.toml"), format!("[server]\nlisten = \"{by_file}\"\n")).unwrap();
    let start = |arguments: &[&str], variable: Option<&str>| {
        let mut command = command(at, arguments);
        if let Some(value) = variable {
            command.env("BACKROOM_LISTEN", value);
        }
        let serving = Serving::spawn(at, command);
        let address = serving.address;
        serving.stop();
        address
    };
    assert_eq!(start(&["serve"], None), by_file);
    assert_eq!(start(&["serve"], Some(&by_variable.to_string())), by_variable);
    assert_eq!(start(&["serve", "--listen", &by_flag.to_string()], Some(&by_variable.to_string())), by_flag);
}

#[test]
fn config_check_names_line_and_column() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (text, wanted) in [
        ("[tables.forms]\nrule = \"manger_wins\"\n", &["line 2, column 8", "manger_wins"][..]),
        ("[tables.forms]\nrule = \n", &["line 2"]),
        ("[server]\nport = 1\n", &["line 2, column 1", "port"]),
        ("[tables.a]\n\n[tables.b]\nrequired = [\"id\"]\n", &["line 3", "tables.b"]),
        ("[limits]\nbody_bytes = 99999999999\n", &["line 2", "limits.body_bytes"]),
    ] {
        fs::write(at.join("backroom.toml"), text).unwrap();
        let said = fails(at, &["config", "check"], "");
        assert!(wanted.iter().all(|part| said.contains(part)), "{text}: {said}");
        assert!(fails(at, &["serve", "--listen", "127.0.0.1:0"], "").contains(wanted[0]));
    }
    assert!(!at.join("backroom.db").exists(), "a bad file stops everything before the database");
    fs::write(at.join("backroom.toml"), "[tables.notes]\nrule = \"latest_wins\"\ngranularity = \"field\"\n").unwrap();
    let said = fine(at, &["config", "check"]);
    assert!(said.contains("1 tables, no mistakes"), "{said}");
}

#[test]
fn paths_version_and_openapi_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let said = fine(directory.path(), &["paths"]);
    for name in ["backroom.toml", "backroom.db", "backups"] {
        assert!(said.contains(directory.path().join(name).to_str().unwrap()), "{said}");
    }
    let openapi: Value = serde_json::from_str(&fine(directory.path(), &["openapi"])).unwrap();
    assert!(openapi["openapi"].as_str().unwrap().starts_with("3.1") && openapi["paths"]["/api/v1/sync/push"]["post"].is_object());
    assert_eq!(fine(directory.path(), &["version"]).trim(), format!("backroom {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "telling writes nothing");
    let by_variable = std::process::Command::new(process::BINARY).arg("paths").env("BACKROOM_DATA_DIR", directory.path()).output().unwrap();
    assert_eq!(out(&by_variable), said);
}

#[test]
fn one_directory_serves_one_appliance() {
    let directory = tempfile::tempdir().unwrap();
    let serving = Serving::start(directory.path());
    assert!(fails(directory.path(), &["serve", "--listen", "127.0.0.1:0"], "").contains("in use by another running backroom"));
    let address = serving.address.to_string();
    let other = tempfile::tempdir().unwrap();
    assert!(fails(other.path(), &["serve", "--listen", &address], "").contains("cannot listen on"));
    serving.stop();
    // However the last one ended.
    let mut serving = Serving::start(directory.path());
    serving.kill();
    Serving::start(directory.path()).stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_prints_a_link_that_makes_the_first_admin() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("data");
    let serving = Serving::spawn(&at, command(&at, &["serve", "--listen", "0.0.0.0:0"]));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], serving.address.port()));
    let link = at.join("setup-link");
    soon(Duration::from_secs(5), "the link is printed", async || serving.output.text().contains("or run: backroom user add")).await;
    let printed = serving.output.text();
    let links: Vec<&str> = printed.lines().map(str::trim).filter(|line| line.contains("/setup#")).collect();
    assert!(!links.is_empty() && links.iter().all(|link| !link.contains("0.0.0.0")), "{printed}");
    assert!(links.iter().any(|link| link.starts_with(&format!("http://{address}/setup#"))), "{printed}");
    assert_eq!(fs::read_to_string(&link).unwrap().lines().collect::<Vec<_>>(), links);
    for file in ["setup-link", "backroom.db", "backroom.db-wal", "backroom.db-shm", "backroom.lock"] {
        assert_eq!(mode(&at.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&at), 0o700);

    let code = links[0].split_once('#').unwrap().1.to_owned();
    let stranger = Device::stranger(address);
    assert_eq!(stranger.get("/setup").await.status, 200);
    let setup = |code: &str, password: &str| json!({ "code": code, "username": "anna", "password": password });
    stranger.post("/api/v1/setup", setup("WRONG-CODE", PASSWORD)).await.refused(403, "invalid_code");
    stranger.post("/api/v1/setup", setup(&code, "short")).await.refused(400, "invalid_request");
    assert_eq!(stranger.post("/api/v1/setup", setup(&code, PASSWORD)).await.ok()["role"], "admin");
    stranger.post("/api/v1/setup", setup(&code, PASSWORD)).await.refused(403, "invalid_code");
    soon(Duration::from_secs(3), "the link's file goes", async || !link.exists()).await;
    Device::login(address, "anna", "anna-1").await.pull().await;
    serving.stop();
    let serving = Serving::start(&at);
    soon(Duration::from_secs(5), "it serves", async || Device::stranger(serving.address).get("/readyz").await.status == 200).await;
    assert!(!serving.output.text().contains("/setup#") && !link.exists());
    serving.stop();

    // The other way: a user by the command line.
    let at = directory.path().join("other");
    let serving = Serving::start(&at);
    soon(Duration::from_secs(5), "the link's file is there", async || at.join("setup-link").exists()).await;
    process::add_user(&at, "berta", "admin", &[]);
    soon(Duration::from_secs(3), "the link's file goes", async || !at.join("setup-link").exists()).await;
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_rules_again_and_a_bad_file_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let rules = |more: &str| fs::write(at.join("backroom.toml"), format!("[tables.forms]\nscope = \"office\"\n{more}")).unwrap();
    rules("");
    let serving = Serving::start(at);
    let anna = serving.guest("anna", "manager", &[]).await;
    let pushed = async |table: &str, id: &str| anna.push_one(table, json!({ "id": id })).await;
    let refused = pushed("notes", "n1").await;
    assert_eq!(refused.rejected("n1"), "unknown_table");
    assert!(refused.0["rejected"][0]["detail"].as_str().unwrap().contains("[tables.notes]"));

    rules("[tables.notes]\nrule = \"latest_wins\"\nscope = \"office\"\n");
    serving.signal("HUP");
    soon(Duration::from_secs(5), "the new table is known", async || pushed("notes", "n2").await.0["applied"]["notes"].is_array()).await;

    let logged = |text: &str| serving.log.text().contains(text);
    rules("[tables.photos]\nscope = \"office\"\n[tables.notes]\nrule = \"loudest_wins\"\n");
    serving.signal("HUP");
    soon(Duration::from_secs(5), "the mistake is logged", async || logged("the rules were not changed")).await;
    assert!(logged("line 6, column 8"), "{}", serving.log.text());
    // Refused as a whole: the good table of the bad file is not there either, and the old ones are.
    assert_eq!(pushed("photos", "p1").await.rejected("p1"), "unknown_table");
    pushed("notes", "n3").await.applied("notes", "n3");
    pushed("forms", "f3").await.applied("forms", "f3");
    let status = anna.get("/api/v1/sync/status").await.ok();
    assert_eq!(status["tables"]["notes"]["rule"], "latest_wins");
    serving.stop();
}

#[test]
fn a_newer_database_and_another_programs_are_refused_by_name_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let path = at.join("backroom.db");
    process::add_user(at, "anna", "admin", &[]);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["user", "list"], &["pause"]] {
        let said = fails(at, arguments, "");
        assert!(said.contains("99") && said.contains("newer backroom"), "{said}");
    }
    let doctor = run(at, &["doctor"], "");
    assert!(doctor.status.code() == Some(1) && out(&doctor).contains("newer"), "{}", out(&doctor));
    fs::remove_file(&path).unwrap();

    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE photos (id INTEGER PRIMARY KEY); INSERT INTO photos VALUES (7); PRAGMA user_version = 1").unwrap();
    drop(other);
    let before = fs::read(&path).unwrap();
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["user", "list"], &["device", "list"]] {
        assert!(fails(at, arguments, "").contains("another program"));
    }
    assert!(fs::read(&path).unwrap() == before, "not a byte of it was touched");
    fs::write(&path, "Dear diary, this is not a database. ".repeat(200)).unwrap();
    assert!(fails(at, &["serve", "--listen", "127.0.0.1:0"], "").contains("not a database"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_no_secret_at_any_level() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let mut command = command(at, &["serve", "--listen", "127.0.0.1:0"]);
    command.env("BACKROOM_LOG", "trace").stdin(Stdio::null());
    let serving = Serving::spawn(at, command);
    soon(Duration::from_secs(5), "the link is printed", async || serving.output.text().contains("or run: backroom user add")).await;
    let printed = serving.output.text();
    let code = printed.split_once("/setup#").unwrap().1.lines().next().unwrap().to_owned();
    let stranger = Device::stranger(serving.address);
    let admin = json!({ "code": code, "username": "anna", "password": PASSWORD });
    stranger.post("/api/v1/setup", admin).await.ok();
    let anna = serving.device("anna", "anna-1").await;
    add_guest(at, "till", "store", &["A"]);
    let invitation = invite(at, "till");
    let enrol = json!({ "code": invitation, "device_id": "till-1" });
    let token = stranger.post("/api/v1/devices/enroll", enrol).await.ok()["token"].as_str().unwrap().to_owned();
    let till = Device { token: token.clone(), ..stranger.clone() };
    // Accepted, merged into a conflict, refused as a record, refused as a whole; wrong password, wrong token, a browser.
    till.push_one("submissions", json!({ "id": "s1", "note": "sesame-content" })).await.applied("submissions", "s1");
    anna.push_one("submissions", json!({ "id": "s1", "version": 0, "note": "sesame-conflict", "store_id": "A" })).await.conflict("s1");
    till.push_one("submissions", json!({ "id": "s2", "version": "sesame-rejected" })).await.rejected("s2");
    till.push_one("submissions", json!({ "id": "s3", "store_id": "sesame-store" })).await.rejected("s3");
    till.send(till.request(Method::POST, "/api/v1/sync/push").body(r#"{"changes":["sesame-broken"]"#))
        .await
        .refused(400, "invalid_request");
    till.pull().await.record("submissions", "s1");
    till.get("/api/v1/records/submissions/s1/history").await.ok();
    let wrong = json!({ "username": "anna", "password": "sesame-password" });
    stranger.post("/api/v1/auth/login", wrong).await.refused(401, "bad_credentials");
    let intruder = Device { token: "bkr_dev_sesame-token".into(), ..stranger.clone() };
    intruder.try_pull(json!({})).await.refused(401, "unauthorized");
    let right = json!({ "username": "anna", "password": PASSWORD });
    let browser = stranger.post("/api/v1/auth/login", right).await;
    let cookie = browser.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let looked = stranger.send(stranger.request(Method::GET, "/api/v1/sync/status").header("cookie", &cookie)).await;
    assert_eq!(looked.status, 200);
    serving.signal("HUP");
    soon(Duration::from_secs(5), "the rules are read again", async || serving.log.text().contains("the rules were read again")).await;

    let log = serving.log.text();
    // The log is one: it names the calls.
    assert!(log.contains("TRACE") && log.contains("/api/v1/sync/push") && log.contains("request.id"), "{log:.2000}");
    let session = cookie.split_once('=').unwrap().1;
    for secret in [PASSWORD, "sesame", &code, &invitation, &token, &anna.token, session] {
        let short = secret.get(..24).unwrap_or(secret);
        if let Some(line) = log.lines().find(|line| line.contains(short)) {
            panic!("{short} is in the log: {line}");
        }
    }
    let output = serving.output.text();
    assert!(!output.contains(&token) && !output.contains("sesame") && !output.contains(PASSWORD));
    serving.stop();
}
