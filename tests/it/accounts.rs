//! Accounts: signing in and out, enrolling, throttles, and how access ends, by the API and by the command line beside it.

use std::net::IpAddr;
use std::time::Duration;

use backroom::domain::actor::Role;
use backroom::server;
use backroom::sqlite::writer::Outcome;
use backroom::store::users;
use backroom::sync::accounts::INVITATION;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::people::within;
use crate::support::process;
use crate::support::{Answer, Appliance, Device, PASSWORD};

/// Access ends within this time, whoever takes it away.
const SOON: Duration = Duration::from_secs(1);

const STATUS: &str = "/api/v1/sync/status";

/// A stranger who calls from an address of this machine.
fn stranger_at(office: &Appliance, address: [u8; 4]) -> Device {
    let client = Client::builder().local_address(IpAddr::from(address)).build().unwrap();
    Device { client, ..Device::stranger(office.address) }
}

async fn login(caller: &Device, name: &str, password: &str) -> Answer {
    caller.post("/api/v1/auth/login", json!({ "username": name, "password": password })).await
}

async fn propose(caller: &Device, name: &str, id: &str) -> Answer {
    let body = json!({ "username": name, "password": PASSWORD, "device": { "id": id } });
    caller.post("/api/v1/auth/login", body).await
}

async fn enroll(office: &Appliance, code: &str, id: Option<&str>) -> Answer {
    Device::stranger(office.address).post("/api/v1/devices/enroll", json!({ "code": code, "device_id": id })).await
}

/// A device with a token that an answer gave.
fn with_token(office: &Appliance, enrolled: &Value) -> Device {
    let text = |name: &str| enrolled[name].as_str().unwrap().to_owned();
    Device { id: text("device_id"), token: text("token"), ..Device::stranger(office.address) }
}

/// The command line, beside the running appliance.
fn console(office: &Appliance, arguments: &[&str], input: &str) -> String {
    let output = process::run(&office.directory, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text without what differs from request to request.
fn anonymous(answer: &Answer) -> (u16, String, Vec<(String, String)>) {
    let id = answer.headers["x-request-id"].to_str().unwrap();
    let headers = answer.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (answer.status.as_u16(), answer.text.replace(id, "-"), headers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_signs_in_with_its_users_password_and_gets_a_token_of_its_own() {
    let office = Appliance::start().await;
    office.user("tom", Role::Store, &["A", "B"]).await;
    let stranger = Device::stranger(office.address);
    let body = json!({ "username": "Tom", "password": PASSWORD,
                       "device": { "name": "Front till", "platform": "ios", "app_version": "2.1" } });
    let enrolled = stranger.post("/api/v1/auth/login", body).await;
    assert!(!enrolled.headers.contains_key("set-cookie"), "a device has no session");
    let enrolled = enrolled.ok();
    assert_eq!(
        (&enrolled["user"], &enrolled["role"], &enrolled["stores"]),
        (&json!("tom"), &json!("store"), &json!(["A", "B"])),
        "names are found in any case, and answered as they are written"
    );
    let till = with_token(&office, &enrolled);
    let seen = till.get(&format!("/api/v1/sync/devices/{}", till.id)).await.ok();
    assert_eq!((&seen["name"], &seen["platform"], &seen["app_version"]), (&json!("Front till"), &json!("ios"), &json!("2.1")));
    let file = std::fs::read(office.directory.join(server::DATABASE)).unwrap();
    let wal = std::fs::read(office.directory.join(format!("{}-wal", server::DATABASE))).unwrap_or_default();
    for secret in [till.token.as_bytes(), PASSWORD.as_bytes()] {
        assert!(![&file, &wal].iter().any(|bytes| bytes.windows(secret.len()).any(|part| part == secret)), "secrets are stored as hashes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_has_a_session_until_it_signs_out() {
    let office = Appliance::start().await;
    office.user("mia", Role::Manager, &[]).await;
    let browser = Device::stranger(office.address);
    let answer = login(&browser, "mia", PASSWORD).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (204, ""));
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    let attributes: Vec<&str> = cookie.split("; ").collect();
    assert_eq!(attributes[1..], ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=2592000"], "{cookie}");
    let pair = attributes[0].to_owned();
    assert_eq!(office.look(&pair, STATUS).await.ok()["success"], true);
    let among_others = format!("theme=dark; {pair}; lang=en");
    assert_eq!(office.look(&among_others, STATUS).await.status, 200);

    // Another browser of the same user is another session.
    let other = office.sign_in("mia").await;
    assert_ne!(pair, other);
    let out = browser.send(browser.request(Method::POST, "/api/v1/auth/logout").header("cookie", &pair)).await;
    assert_eq!(out.status, 204);
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"));
    office.look(&pair, STATUS).await.refused(401, "unauthorized");
    assert_eq!(office.look(&other, STATUS).await.status, 200, "signing out ends one session");

    // Behind HTTPS the cookie never travels without.
    let https = format!("https://{}", office.address);
    let body = json!({ "username": "mia", "password": PASSWORD }).to_string();
    let secure = browser.send(browser.request(Method::POST, "/api/v1/auth/login").header("origin", https).body(body)).await;
    assert!(secure.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"));

    // Ports share cookies, so two appliances on one machine name theirs differently.
    let neighbour = Appliance::start().await;
    neighbour.user("mia", Role::Manager, &[]).await;
    let name = |pair: &str| pair.split('=').next().unwrap().to_owned();
    assert_ne!(name(&pair), name(&neighbour.sign_in("mia").await));
    // Sessions live in memory: a restart signs everybody out.
    let office = office.restart("").await;
    office.look(&other, STATUS).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_and_a_wrong_password_are_answered_alike() {
    let office = Appliance::start().await;
    office.user("mia", Role::Manager, &[]).await;
    office.user("gone", Role::Manager, &[]).await;
    console(&office, &["user", "disable", "gone"], "");
    console(&office, &["user", "add", "tom", "--role", "store", "--store", "A", "--no-password"], "");
    let stranger = Device::stranger(office.address);
    let wrong = login(&stranger, "mia", "not her password").await;
    wrong.refused(401, "bad_credentials");
    for (name, password) in [("nobody", PASSWORD), ("gone", PASSWORD), ("tom", PASSWORD), ("", ""), ("mia", ""), ("no\u{e9}\0", "x")] {
        assert_eq!(anonymous(&login(&stranger, name, password).await), anonymous(&wrong), "{name:?}");
    }
    assert_eq!(login(&stranger, "mia", PASSWORD).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_failures_count_and_a_stranger_cannot_lock_the_owner_out() {
    let office = Appliance::start().await;
    office.user("mia", Role::Manager, &[]).await;
    let owner = stranger_at(&office, [127, 0, 0, 2]);
    for _ in 0..12 {
        assert_eq!(login(&owner, "mia", PASSWORD).await.status, 204, "successes cost nothing");
    }
    let stranger = stranger_at(&office, [127, 0, 0, 3]);
    for _ in 0..10 {
        login(&stranger, "mia", "a guess").await.refused(401, "bad_credentials");
    }
    let throttled = login(&stranger, "mia", PASSWORD).await;
    throttled.refused(429, "rate_limited");
    let wait: u64 = throttled.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // His address is used up for every account and for codes; the account is, for strangers.
    login(&stranger, "nobody", "a guess").await.refused(429, "rate_limited");
    stranger.post("/api/v1/devices/enroll", json!({ "code": "0" })).await.refused(429, "rate_limited");
    login(&stranger_at(&office, [127, 0, 0, 4]), "MIA", PASSWORD).await.refused(429, "rate_limited");
    // The owner comes from where she came from before; others are not concerned.
    assert_eq!(login(&owner, "mia", PASSWORD).await.status, 204);
    office.user("max", Role::Manager, &[]).await;
    assert_eq!(login(&stranger_at(&office, [127, 0, 0, 5]), "max", PASSWORD).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_that_wait_together_are_throttled_like_any_others() {
    let office = Appliance::start().await;
    office.user("mia", Role::Manager, &[]).await;
    let mut guesses = tokio::task::JoinSet::new();
    for n in 0..60 {
        let stranger = Device::stranger(office.address);
        guesses.spawn(async move { login(&stranger, "mia", &format!("guess {n}")).await.status.as_u16() });
    }
    let answers = guesses.join_all().await;
    let tried = answers.iter().filter(|status| **status == 401).count();
    assert!(answers.iter().all(|status| [401, 429].contains(status)) && (10..=11).contains(&tried), "{tried} of 60 were tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_good_for_one_device_and_for_one_day() {
    let office = Appliance::start().await;
    office.user("tom", Role::Store, &["A"]).await;
    office.user("mia", Role::Manager, &[]).await;
    // People type codes as they like.
    let code = office.invite("tom").await;
    let till = with_token(&office, &enroll(&office, &format!(" {} ", code.to_lowercase().replace('-', " ")), None).await.ok());
    assert_eq!(till.get(STATUS).await.ok()["devices"][0]["user"], "tom");
    enroll(&office, &code, None).await.refused(403, "invalid_code");
    enroll(&office, &code, Some(&till.id)).await.refused(403, "invalid_code");
    enroll(&office, "", None).await.refused(403, "invalid_code");
    assert_eq!(till.get(STATUS).await.status, 200);

    let late = office.invite("tom").await;
    let in_time = office.invite("tom").await;
    office.clock.advance(INVITATION - 60_000_000);
    enroll(&office, &in_time, None).await.ok();
    office.clock.advance(120_000_000);
    enroll(&office, &late, None).await.refused(403, "invalid_code");

    // Two devices try the same code at once.
    let code = office.invite("tom").await;
    let (one, two) = tokio::join!(enroll(&office, &code, None), enroll(&office, &code, None));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);

    // A refused id does not use the code up.
    let code = office.invite("mia").await;
    enroll(&office, &code, Some(&till.id)).await.refused(403, "device_mismatch");
    enroll(&office, &code, Some("no good id")).await.refused(400, "invalid_request");
    enroll(&office, &code, Some("mias-phone")).await.ok();
    // A code of a user who is disabled meanwhile.
    let code = office.invite("tom").await;
    console(&office, &["user", "disable", "tom"], "");
    enroll(&office, &code, None).await.refused(403, "invalid_code");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_invites_while_the_appliance_runs() {
    let office = Appliance::start().await;
    console(&office, &["user", "add", "tom", "--role", "store", "--store", "A", "--no-password"], "");
    let code = console(&office, &["device", "invite", "--user", "tom", "--quiet"], "");
    let enrolled = enroll(&office, code.trim(), Some("till-1")).await.ok();
    assert_eq!((&enrolled["device_id"], &enrolled["stores"]), (&json!("till-1"), &json!(["A"])));
    assert_eq!(with_token(&office, &enrolled).get(STATUS).await.status, 200);
    enroll(&office, code.trim(), None).await.refused(403, "invalid_code");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_id_proposed_again_gets_a_new_token_and_stays_with_its_user() {
    let office = Appliance::start().await;
    office.user("tom", Role::Store, &["A"]).await;
    office.user("bob", Role::Store, &["A"]).await;
    let stranger = Device::stranger(office.address);
    let first = with_token(&office, &propose(&stranger, "tom", "till-1").await.ok());
    first.push_one("submissions", json!({ "id": "s1" })).await.applied("submissions", "s1");
    propose(&stranger, "bob", "till-1").await.refused(403, "device_mismatch");
    enroll(&office, &office.invite("bob").await, Some("till-1")).await.refused(403, "device_mismatch");
    assert_eq!(first.get(STATUS).await.status, 200, "nothing happened to it");

    let second = with_token(&office, &propose(&stranger, "tom", "till-1").await.ok());
    first.get(STATUS).await.refused(401, "unauthorized");
    let third = with_token(&office, &enroll(&office, &office.invite("tom").await, Some("till-1")).await.ok());
    second.get(STATUS).await.refused(401, "unauthorized");
    let devices = third.get("/api/v1/sync/devices").await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1, "it is still the same device");
    // A revoked device comes back by its user's password.
    third.call(Method::DELETE, "/api/v1/sync/devices/till-1", None).await.ok();
    third.get(STATUS).await.refused(401, "device_revoked");
    let fourth = with_token(&office, &propose(&stranger, "tom", "till-1").await.ok());
    assert_eq!(fourth.get("/api/v1/sync/devices/till-1").await.ok()["status"], "active");
    third.get(STATUS).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_ends_a_devices_access_at_once_and_the_console_within_a_second() {
    let office = Appliance::start().await;
    let manager = office.manager("mia").await;
    let (till, spare) = (office.till("tom", "A").await, office.device("tom", "2").await);
    manager.call(Method::DELETE, "/api/v1/sync/devices/tom-1", None).await.ok();
    till.try_pull(json!({})).await.refused(401, "device_revoked");
    till.try_push(json!({})).await.refused(401, "device_revoked");
    assert_eq!(spare.get(STATUS).await.status, 200);
    let shown = manager.get("/api/v1/sync/devices/tom-1").await.ok();
    assert!(shown["status"] == "revoked" && shown["revoked_at"].is_string(), "{shown}");
    // Revoking again changes nothing.
    let again = manager.call(Method::DELETE, "/api/v1/sync/devices/tom-1", None).await.ok();
    assert_eq!(again["revoked_at"], shown["revoked_at"]);

    console(&office, &["device", "revoke", "tom-2"], "");
    let refused = within(SOON, async || Some(spare.get(STATUS).await).filter(|answer| answer.status != 200)).await;
    refused.refused(401, "device_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_an_older_state_takes_nobody_in_or_out_again() {
    let office = Appliance::start().await;
    let manager = office.manager("mia").await;
    let revoked = office.device("mia", "2").await;
    // A reader whose transaction began before what follows, as the one that watches for the console may.
    let before = rusqlite::Connection::open(office.directory.join(server::DATABASE)).unwrap();
    before.execute_batch("BEGIN").unwrap();
    let _: i64 = before.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap();
    let newcomer = office.device("mia", "3").await;
    manager.call(Method::DELETE, "/api/v1/sync/devices/mia-2", None).await.ok();
    for _ in 0..2 {
        office.app.store.accounts.refresh(&before).unwrap();
        assert_eq!(newcomer.get(STATUS).await.status, 200);
        revoked.get(STATUS).await.refused(401, "device_revoked");
        office.app.store.accounts.reload(&before).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_commit_did_to_accounts_is_forgotten_within_a_second() {
    let office = Appliance::start().await;
    let manager = office.manager("mia").await;
    let till = office.till("tom", "A").await;
    // The appliance has looked at everything that was committed.
    let spare = office.device("mia", "2").await;
    console(&office, &["device", "revoke", &spare.id], "");
    within(SOON, async || Some(spare.get(STATUS).await).filter(|answer| answer.status != 200)).await;
    // The batch fails as a whole after the accounts were read in it.
    let lost = office.app.store.writer.run(|db, ledger| {
        db.execute_batch("PRAGMA defer_foreign_keys = 1; INSERT INTO user_stores (user, store) VALUES (99, 'nowhere')")?;
        users::set_enabled(db, 2, false, ledger.now())?;
        ledger.accounts_changed();
        Ok(Outcome::Keep(()))
    });
    assert!(lost.await.is_err());
    within(SOON, async || Some(till.get(STATUS).await).filter(|answer| answer.status == 200)).await;
    assert_eq!(manager.get(STATUS).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_a_user_ends_sessions_and_devices_and_enabling_brings_the_devices_back() {
    let office = Appliance::start().await;
    let (manager, cookie) = (office.manager("mia").await, office.sign_in("mia").await);
    let (other, others) = (office.manager("max").await, office.sign_in("max").await);
    console(&office, &["user", "disable", "mia"], "");
    let ended = within(SOON, async || Some(manager.get(STATUS).await).filter(|answer| answer.status != 200)).await;
    ended.refused(401, "device_revoked");
    office.look(&cookie, STATUS).await.refused(401, "unauthorized");
    login(&manager, "mia", PASSWORD).await.refused(401, "bad_credentials");
    assert_eq!((other.get(STATUS).await.status.as_u16(), office.look(&others, STATUS).await.status.as_u16()), (200, 200));

    console(&office, &["user", "enable", "mia"], "");
    within(SOON, async || Some(manager.get(STATUS).await).filter(|answer| answer.status == 200)).await;
    office.look(&cookie, STATUS).await.refused(401, "unauthorized");
    assert_eq!(office.look(&office.sign_in("mia").await, STATUS).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_used_while_its_user_was_disabled_is_over_too() {
    let office = Appliance::start().await;
    let (watch, cookie) = (office.manager("mia").await, office.sign_in("mia").await);
    for command in ["disable", "enable"] {
        console(&office, &["user", command, "mia"], "");
    }
    // The appliance has seen both when the next change of the console has arrived.
    console(&office, &["device", "revoke", &watch.id], "");
    within(SOON, async || Some(watch.get(STATUS).await).filter(|answer| answer.status != 200)).await;
    office.look(&cookie, STATUS).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_signs_browsers_out_and_leaves_devices_in() {
    let office = Appliance::start().await;
    let (manager, cookie) = (office.manager("mia").await, office.sign_in("mia").await);
    console(&office, &["user", "passwd", "mia", "--password-stdin"], "another long password");
    within(SOON, async || Some(office.look(&cookie, STATUS).await).filter(|answer| answer.status != 200))
        .await
        .refused(401, "unauthorized");
    assert_eq!(manager.get(STATUS).await.status, 200, "a device has a token of its own; revoke it if it was lost");
    let stranger = Device::stranger(office.address);
    login(&stranger, "mia", PASSWORD).await.refused(401, "bad_credentials");
    assert_eq!(login(&stranger, "mia", "another long password").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_signs_browsers_out_and_holds_for_devices_within_a_second() {
    let office = Appliance::start().await;
    let (device, cookie) = (office.manager("mia").await, office.sign_in("mia").await);
    device.push_one("forms", json!({ "id": "f1" })).await.applied("forms", "f1");
    console(&office, &["user", "role", "mia", "--role", "store", "--store", "A"], "");
    within(SOON, async || Some(office.look(&cookie, STATUS).await).filter(|answer| answer.status != 200))
        .await
        .refused(401, "unauthorized");
    assert_eq!(device.push_one("forms", json!({ "id": "f2" })).await.rejected("f2"), "forbidden");
    assert_eq!(device.get(STATUS).await.ok()["devices"][0]["role"], "store");
    // Within the process it holds at once.
    office.role("mia", Role::Admin, &[]).await;
    assert_eq!(device.get(STATUS).await.ok()["devices"][0]["role"], "admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_hash_is_renewed_by_a_login_and_ends_no_session() {
    let office = Appliance::start().await;
    office.user("mia", Role::Manager, &[]).await;
    let cookie = office.sign_in("mia").await;
    let weak = weak_hash(PASSWORD);
    let stored = weak.clone();
    let put = move |db: &rusqlite::Connection, _: &mut backroom::store::ledger::Ledger| {
        db.execute("UPDATE users SET password = ?1", [&stored])?;
        Ok(Outcome::Keep(()))
    };
    office.app.store.writer.run(put).await.unwrap();
    office.sign_in("mia").await;
    let now: String = office.ask("SELECT password FROM users").await;
    assert!(now != weak && now.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{now}");
    office.sign_in("mia").await;
    assert_eq!(office.look(&cookie, STATUS).await.status, 200);
    // A hash that was replaced meanwhile is not put back.
    let late = now.clone();
    let renew = move |db: &rusqlite::Connection, _: &mut backroom::store::ledger::Ledger| {
        Ok(Outcome::Keep(users::renew_hash(db, 1, &weak, "$late")?))
    };
    office.app.store.writer.run(renew).await.unwrap();
    assert_eq!(office.ask::<String>("SELECT password FROM users").await, late);
}

/// The password by weaker settings than today's.
fn weak_hash(password: &str) -> String {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon.hash_password(password.as_bytes()).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_another_device_is_refused() {
    let office = Appliance::start().await;
    let till = office.till("tom", "A").await;
    let other = office.device("tom", "2").await;
    till.try_push(json!({ "device_id": other.id })).await.refused(403, "device_mismatch");
    till.try_pull(json!({ "device_id": other.id })).await.refused(403, "device_mismatch");
    for (path, method) in [("/api/v1/sync/push", Method::POST), ("/api/v1/sync/pull", Method::POST), (STATUS, Method::GET)] {
        let named = async |id: &str| till.send(till.request(method.clone(), path).header("x-device-id", id).body("{}")).await;
        for id in [other.id.as_str(), "nobody", "", "TOM-1"] {
            named(id).await.refused(403, "device_mismatch");
        }
        assert_eq!(named(&till.id).await.status, 200);
    }
    till.try_push(json!({ "device_id": till.id })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_look_after_their_own_devices_managers_after_those_of_stores_and_admins_after_all() {
    let office = Appliance::start().await;
    office.user("ben", Role::Service, &[]).await;
    let devices = [
        office.till("tom", "A").await,
        office.till("bob", "A").await,
        office.device("ben", "1").await,
        office.manager("mia").await,
        office.manager("max").await,
        office.admin("ada").await,
        office.admin("amy").await,
    ];
    let find = |user: &str| devices.iter().find(|device| device.id == format!("{user}-1")).unwrap();
    // Status of a rename by the first of the second's device: 404 where it is not even seen.
    for (by, whose, status) in [
        ("tom", "tom", 200),
        ("tom", "bob", 404),
        ("tom", "mia", 404),
        ("ben", "ben", 200),
        ("ben", "tom", 404),
        ("mia", "mia", 200),
        ("mia", "tom", 200),
        ("mia", "ben", 403),
        ("mia", "max", 403),
        ("mia", "ada", 403),
        ("ada", "tom", 200),
        ("ada", "ben", 200),
        ("ada", "mia", 200),
        ("ada", "amy", 200),
        ("ada", "nobody", 404),
    ] {
        let (path, name) = (format!("/api/v1/sync/devices/{whose}-1"), format!("named by {by}"));
        let renamed = find(by).call(Method::PATCH, &path, Some(json!({ "name": format!(" {name} ") }))).await;
        assert_eq!(renamed.status.as_u16(), status, "{by} renames {whose}'s: {}", renamed.text);
        if status == 200 {
            assert_eq!(renamed.body["name"], name);
            let extra = Device::login(office.address, whose, &format!("{whose}-{by}")).await;
            let revoked = find(by).call(Method::DELETE, &format!("/api/v1/sync/devices/{}", extra.id), None).await.ok();
            assert_eq!(revoked["status"], "revoked");
            extra.get(STATUS).await.refused(401, "device_revoked");
        } else {
            let revoked = find(by).call(Method::DELETE, &path, None).await;
            assert_eq!(revoked.status.as_u16(), status, "{by} revokes {whose}'s: {}", revoked.text);
        }
    }
    // A hidden device and an absent one are answered alike.
    let tom = find("tom");
    for method in [Method::GET, Method::DELETE] {
        let hidden = tom.call(method.clone(), "/api/v1/sync/devices/ada-1", None).await;
        let absent = tom.call(method, "/api/v1/sync/devices/eve-1", None).await;
        assert_eq!(anonymous(&hidden), anonymous(&absent));
    }
    for bad in ["", "  ", &"x".repeat(201)] {
        tom.call(Method::PATCH, "/api/v1/sync/devices/tom-1", Some(json!({ "name": bad }))).await.refused(400, "invalid_request");
    }
    let seen = tom.get("/api/v1/sync/devices").await.ok();
    assert!(seen["devices"].as_array().unwrap().iter().all(|device| device["user"] == "tom"), "{seen}");
    let log: i64 = office.ask("SELECT count(*) FROM audit WHERE actor = 'ada' AND action IN ('rename', 'revoke')").await;
    assert_eq!(log, 8, "who did what is in the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_other_sites_pages_and_for_foreign_names_are_refused() {
    let office = Appliance::with("[server]\nhosts = [\"sync.shop.example\"]\n").await;
    let till = office.till("tom", "A").await;
    let cookie = office.sign_in("tom").await;
    let own = office.address.to_string();
    let origin = format!("http://{own}");
    let attempt = async |method: Method, headers: &[(&str, &str)]| {
        let path = if method == Method::GET { STATUS } else { "/api/v1/auth/logout" };
        let request = till.request(method, path);
        let answer = till.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await;
        match answer.status.as_u16() {
            200 | 204 => true,
            _ => {
                answer.refused(403, "forbidden_origin");
                false
            }
        }
    };
    for (method, headers, passes) in [
        // Names that nobody on the internet can point here.
        (Method::GET, vec![("host", own.as_str())], true),
        (Method::GET, vec![("host", "backroom")], true),
        (Method::GET, vec![("host", "localhost:8484")], true),
        (Method::GET, vec![("host", "nas.tail1234.ts.net")], true),
        (Method::GET, vec![("host", "NAS.local.")], true),
        (Method::GET, vec![("host", "[::1]:8484")], true),
        (Method::GET, vec![("host", "[fd7a:115c:a1e0::1]")], true),
        (Method::GET, vec![("host", "sync.shop.example:8484")], true),
        (Method::GET, vec![("host", "evil.example")], false),
        (Method::GET, vec![("host", "evil.example:8484")], false),
        (Method::GET, vec![("host", "ts.net.evil.example")], false),
        (Method::GET, vec![("host", "evilts.net")], false),
        (Method::POST, vec![("host", "evil.example")], false),
        // Pages of this appliance, and programs, which name no origin.
        (Method::POST, vec![], true),
        (Method::POST, vec![("origin", origin.as_str())], true),
        (Method::POST, vec![("sec-fetch-site", "same-origin"), ("origin", origin.as_str())], true),
        (Method::POST, vec![("sec-fetch-site", "none")], true),
        // Pages of others.
        (Method::POST, vec![("origin", "http://evil.example")], false),
        (Method::POST, vec![("origin", "null")], false),
        (Method::POST, vec![("origin", "http://127.0.0.1:1")], false),
        (Method::POST, vec![("sec-fetch-site", "cross-site")], false),
        (Method::POST, vec![("sec-fetch-site", "same-site"), ("origin", origin.as_str())], false),
        // Reading is what links do; no other page can read the answer.
        (Method::GET, vec![("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")], true),
    ] {
        assert_eq!(attempt(method.clone(), &headers).await, passes, "{method} {headers:?}");
    }
    // What counts is the page, whoever is signed in.
    let forged = till.request(Method::POST, "/api/v1/auth/logout").header("cookie", &cookie).header("origin", "http://evil.example");
    till.send(forged).await.refused(403, "forbidden_origin");
    assert_eq!(office.look(&cookie, STATUS).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_admin_comes_by_a_link_that_works_once_and_for_half_an_hour() {
    let office = Appliance::start().await;
    let stranger = Device::stranger(office.address);
    let setup = async |code: &str, name: &str, password: &str| {
        stranger.post("/api/v1/setup", json!({ "code": code, "username": name, "password": password })).await
    };
    let first = server::setup_code(&office.app).await.unwrap().unwrap();
    office.clock.advance(server::SETUP + 1_000_000);
    setup(&first, "ada", PASSWORD).await.refused(403, "invalid_code");
    let second = server::setup_code(&office.app).await.unwrap().unwrap();
    setup(&first, "ada", PASSWORD).await.refused(403, "invalid_code");
    setup("", "ada", PASSWORD).await.refused(403, "invalid_code");
    for (name, password) in [("", PASSWORD), ("a b", PASSWORD), ("ada", "short"), ("ada", &"x".repeat(1_025))] {
        setup(&second, name, password).await.refused(400, "invalid_request");
    }
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM users").await, 0);
    // Two people open the link; one of them is the admin.
    let (one, two) = tokio::join!(setup(&second, "ada", PASSWORD), setup(&second, "eve", PASSWORD));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
    let made = if one.status == 200 { one } else { two }.ok();
    let name = made["user"].as_str().unwrap();
    assert_eq!((office.ask::<i64>("SELECT count(*) FROM users").await, &made["role"]), (1, &json!("admin")));
    setup(&second, "eve", PASSWORD).await.refused(403, "invalid_code");
    assert_eq!(server::setup_code(&office.app).await.unwrap(), None, "there is a user, so there is no code");
    let cookie = office.sign_in(name).await;
    assert_eq!(office.look(&cookie, STATUS).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_made_by_the_console_makes_the_set_up_link_useless() {
    let office = Appliance::start().await;
    let code = server::setup_code(&office.app).await.unwrap().unwrap();
    process::add_user(&office.directory, "ada", "admin", &[]);
    let body = json!({ "code": code, "username": "eve", "password": PASSWORD });
    Device::stranger(office.address).post("/api/v1/setup", body).await.refused(403, "invalid_code");
}
