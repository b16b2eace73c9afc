//! Who may listen no more is told so within a second, in whatever way it came, and nobody else is.

use std::path::Path;
use std::time::{Duration, Instant};

use backroom::domain::actor::Role;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::{RULES, SECOND, listening, ring};
use crate::support::process::{Serving, add_user, run};
use crate::support::socket::{Socket, ticket};
use crate::support::{Appliance, Device, PASSWORD};

/// Ends within a second of what was just done.
async fn ends(socket: &mut Socket, done: Instant, what: &str) {
    assert_eq!(socket.ended().await, 4401, "{what}");
    assert!(done.elapsed() < SECOND, "{what}: after {:?}", done.elapsed());
}

/// It is open still.
async fn stays(socket: &mut Socket) {
    assert_eq!(socket.ask("ping", json!({})).await.0, "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_an_enrolment_anew_and_a_logout_end_their_own_sockets() {
    let office = Appliance::with(RULES).await;
    let (boss, ben, cleo) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let second = office.enrolled("ben", "2").await;
    let mut bens = [Socket::open(&ben).await, Socket::open(&ben).await];
    let (mut others, mut cleos) = ([Socket::open(&second).await, Socket::open(&boss).await], Socket::open(&cleo).await);
    boss.call(Method::DELETE, "/api/v1/sync/devices/ben-1", None).await;
    let done = Instant::now();
    for socket in &mut bens {
        ends(socket, done, "revoked").await;
    }
    // Enrolled anew, the device has another token; whoever holds the old one is out.
    let code = office.invite("cleo").await;
    let body = json!({ "code": code, "device_id": "cleo-1", "name": "cleo-1" });
    let stranger = Device::stranger(office.address);
    let answer = stranger.post("/api/v1/devices/enroll", body).await.ok();
    let done = Instant::now();
    ends(&mut cleos, done, "enrolled anew").await;
    let renewed = Device { token: answer["token"].as_str().unwrap().into(), ..cleo };
    let mut renewed = Socket::open(&renewed).await;

    office.user("mia", Role::Manager, &[]).await;
    let (one, two) = (office.sign_in("mia").await, office.sign_in("mia").await);
    let mut browsers = Vec::new();
    for cookie in [&one, &one, &two] {
        browsers.push(Socket::by_ticket(office.address, &ticket(&stranger, Some(cookie)).await).await);
    }
    stranger.send(stranger.request(Method::POST, "/api/v1/auth/logout").header("cookie", &one)).await;
    let done = Instant::now();
    for socket in &mut browsers[..2] {
        ends(socket, done, "signed out").await;
    }
    for socket in others.iter_mut().chain([&mut renewed, &mut browsers[2]]) {
        stays(socket).await;
    }
    ring(&boss, "b").await;
    others[0].until("bells", "b").await;
    listening(&office, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_or_store_ends_a_socket_that_has_messages_under_way() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    for (turn, (role, stores)) in [(Role::Store, &["A", "B"][..]), (Role::Manager, &[]), (Role::Store, &["A"])].into_iter().enumerate() {
        let mut socket = Socket::open(&ben).await;
        // Messages follow each other without waiting for answers while the role changes.
        for no in 0..50 {
            let record = json!({ "id": format!("v{turn}-{no}"), "store_id": "A" });
            let push = json!({ "type": "push_change", "id": no, "payload": { "changes": { "visits": [record] } } });
            socket.send(push.to_string()).await;
        }
        office.role("ben", role, stores).await;
        let done = Instant::now();
        for no in 50..60 {
            socket.try_send(json!({ "type": "ping", "id": no }).to_string()).await;
        }
        // Each was answered in order, until the end.
        let mut expected = 0;
        let code = loop {
            match socket.next().await {
                Ok(message) => {
                    assert_eq!(message["id"], expected, "{message}");
                    assert_ne!(message["type"], "error", "{message}");
                    expected += 1;
                }
                Err(code) => break code,
            }
        };
        assert_eq!(code, 4401);
        assert!(done.elapsed() < SECOND, "{:?}", done.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_only_for_who_may_act_as_it_comes() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let mut socket = Socket::open(&ben).await;
    stays(&mut socket).await;
    // The accounts know of the change; a message that comes now is the old role's no more, whoever is faster.
    office.role("ben", Role::Store, &["B"]).await;
    let push = json!({ "type": "push_change", "id": 1, "payload": { "changes": { "visits": [{ "id": "late", "store_id": "A" }] } } });
    socket.try_send(push.to_string()).await;
    assert_eq!(socket.ended().await, 4401);
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM heads").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_is_let_go_as_soon_also_while_it_sends_pings() {
    let office = Appliance::with(&stalling()).await;
    let boss = office.boss("anna").await;
    for (turn, pings) in [false, true].into_iter().enumerate() {
        let ben = office.clerk(&format!("ben{turn}"), "A").await;
        let socket = stalled(&office, &boss, &ben, turn, pings).await;
        boss.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", ben.id), None).await;
        let done = Instant::now();
        listening(&office, 0).await;
        assert!(done.elapsed() < SECOND, "{:?}", done.elapsed());
        drop(socket);
    }
}

/// Rules of many tables, so that one hint is large.
pub(super) fn stalling() -> String {
    (0..12).map(|no| format!("[tables.t{no}]\nrule = \"latest_wins\"\n")).collect()
}

/// A device's connection that was filled with hints until no more went into it.
pub(super) async fn stalled(office: &Appliance, writer: &Device, device: &Device, turn: usize, pings: bool) -> Socket {
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4 << 10).unwrap();
    let mut socket = Socket::over(tcp.connect(office.address).await.unwrap(), device).await.unwrap();
    if pings {
        // Each is answered, which nobody reads.
        for _ in 0..1_990 {
            socket.ping(&[b'x'; 125]).await;
        }
    } else {
        fill(writer, turn).await;
    }
    socket
}

/// Some megabytes of hints.
pub(super) async fn fill(writer: &Device, turn: usize) {
    for push in 0..50 {
        let id = |no: usize| format!("{turn}-{push}-{no}-{}", "x".repeat(110));
        let records: Vec<Value> = (0..60).map(|no| json!({ "id": id(no) })).collect();
        let changes: serde_json::Map<String, Value> = (0..12).map(|table| (format!("t{table}"), json!(records))).collect();
        writer.push(json!({ "changes": changes })).await;
    }
}

fn console(directory: &Path, arguments: &[&str], input: &str) -> Instant {
    let output = run(directory, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Instant::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_line_changes_ends_sockets_of_the_running_appliance() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    add_user(at, "anna", "admin", &[]);
    let serving = Serving::start(at);
    let ben = serving.guest("ben", "store", &["A"]).await;
    let other = serving.guest("cleo", "store", &["A"]).await;
    let mut other = Socket::open(&other).await;
    let cookie = {
        let body = json!({ "username": "anna", "password": PASSWORD });
        let answer = Device::stranger(serving.address).post("/api/v1/auth/login", body).await;
        answer.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
    };
    let stranger = Device::stranger(serving.address);
    let mut browser = Socket::by_ticket(serving.address, &ticket(&stranger, Some(&cookie)).await).await;
    let orders: [(&[&str], &str); 5] = [
        (&["user", "role", "ben", "--role", "store", "--store", "B"], ""),
        (&["user", "role", "ben", "--role", "manager"], ""),
        (&["user", "passwd", "ben", "--password-stdin"], "another long password"),
        (&["user", "disable", "ben"], ""),
        (&["device", "revoke", "ben-1"], ""),
    ];
    for (arguments, input) in orders {
        let mut socket = Socket::open(&ben).await;
        stays(&mut socket).await;
        let done = console(at, arguments, input);
        ends(&mut socket, done, arguments[1]).await;
        if arguments[1] == "disable" {
            console(at, &["user", "enable", "ben"], "");
            crate::support::people::within(Duration::from_secs(10), async || {
                (ben.get("/api/v1/records/submissions/none").await.status == 404).then_some(())
            })
            .await;
        }
    }
    stays(&mut browser).await;
    let done = console(at, &["user", "passwd", "anna", "--password-stdin"], "yet another password");
    ends(&mut browser, done, "a person's password").await;
    stays(&mut other).await;
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_stops_says_1001_and_waits_for_nobody_who_does_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    std::fs::write(at.join("backroom.toml"), stalling()).unwrap();
    let mut serving = Serving::start(at);
    let boss = serving.guest("anna", "manager", &[]).await;
    let ben = serving.guest("ben", "store", &["A"]).await;
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4 << 10).unwrap();
    let stalled = Socket::over(tcp.connect(serving.address).await.unwrap(), &ben).await.unwrap();
    fill(&boss, 0).await;
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(Socket::open(&ben).await);
    }
    serving.signal("TERM");
    let told = Instant::now();
    for socket in &mut sockets {
        assert_eq!(socket.ended().await, 1001);
    }
    let status = serving.ended(Duration::from_secs(8)).expect("it waits for a reader that stopped");
    assert!(status.success(), "{}", serving.log.text());
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
    assert!(!serving.log.text().contains("still under way"), "{}", serving.log.text());
    drop(stalled);
}
