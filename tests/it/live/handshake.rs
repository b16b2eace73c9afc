//! How a live connection begins: who may, and what is no handshake.

use reqwest::Method;

use super::{RULES, listening};
use crate::support::socket::{Socket, bearer, handshake, ticket};
use crate::support::wire::Wire;
use crate::support::{Appliance, Device};

async fn asks(office: &Appliance, head: &str) -> (u16, String, String) {
    let mut wire = Wire::open(office.address).await;
    let reply = wire.shake(head).await;
    (reply.status, reply.code(), reply.head.to_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_is_told_so() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let whole = handshake(office.address, "", &bearer(&ben));
    let (status, _, head) = asks(&office, &whole).await;
    assert_eq!(status, 101, "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("sec-websocket-protocol") && !head.contains("sec-websocket-extensions"), "{head}");
    let without = |line: &str| whole.split_inclusive("\r\n").filter(|had| !had.starts_with(line)).collect::<String>();
    let wrong = [
        without("Upgrade"),
        without("Connection"),
        without("Sec-WebSocket-Key"),
        without("Sec-WebSocket-Version"),
        whole.replace("Version: 13", "Version: 8"),
        whole.replace("Version: 13", "Version: 14"),
        whole.replace("Upgrade: websocket", "Upgrade: h2c"),
        whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "short=="),
        whole.replace("dGhlIHNhbXBsZSBub25jZQ==", &"a".repeat(200)),
        whole.replace("Connection: Upgrade", "Connection: keep-alive"),
        whole.replace("HTTP/1.1", "HTTP/1.0"),
    ];
    for head in wrong {
        let (status, code, answer) = asks(&office, &head).await;
        assert_eq!((status, code.as_str()), (426, "upgrade_required"), "{head}{answer}");
        assert!(answer.contains("sec-websocket-version: 13\r\n") && answer.contains("upgrade: websocket\r\n"), "{answer}");
    }
    let right = [
        whole.replace("Sec-WebSocket", "sec-websocket").replace("Upgrade: w", "upgrade: W").replace("Connection:", "connection:"),
        whole.replace("Sec-WebSocket", "SEC-WEBSOCKET").replace("Upgrade: websocket", "UPGRADE: WebSocket"),
        whole.replace("Connection: Upgrade", "Connection: keep-alive, uPGRADE"),
        whole.replace("Bearer", "bearer"),
        // What is offered beside it is not taken.
        whole.replace(
            "Connection: Upgrade",
            "Connection: Upgrade\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: x",
        ),
    ];
    for head in right {
        let (status, code, answer) = asks(&office, &head).await;
        assert_eq!((status, code.as_str()), (101, ""), "{head}{answer}");
        assert!(!answer.contains("sec-websocket-extensions") && !answer.contains("sec-websocket-protocol"), "{answer}");
    }
    let (status, ..) = asks(&office, &whole.replace("GET", "POST")).await;
    assert_eq!(status, 405);
    listening(&office, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_without_a_right_to_it_is_refused() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let at = office.address;
    office.user("mia", backroom::domain::actor::Role::Manager, &[]).await;
    let cookie = office.sign_in("mia").await;
    let own = format!("Origin: http://{at}\r\n");
    let cases = [
        (handshake(at, "", ""), 401, "unauthorized"),
        (handshake(at, "", "Authorization: Bearer bkr_dev_nonsense\r\n"), 401, "unauthorized"),
        (handshake(at, "", "Authorization: Basic bWlhOm1pYQ==\r\n"), 401, "unauthorized"),
        // A cookie is sent by any page's request; only a ticket shows that the page may read answers.
        (handshake(at, "", &format!("Cookie: {cookie}\r\n")), 401, "unauthorized"),
        (handshake(at, "", &format!("Cookie: {cookie}\r\n{own}")), 401, "unauthorized"),
        (handshake(at, "", &format!("{}X-Device-ID: other\r\n", bearer(&ben))), 403, "device_mismatch"),
        (handshake(at, "", &format!("{}Origin: http://evil.example\r\n", bearer(&ben))), 403, "forbidden_origin"),
        (handshake(at, "", &format!("{}Origin: null\r\n", bearer(&ben))), 403, "forbidden_origin"),
        (handshake(at, "", &format!("{}Sec-Fetch-Site: cross-site\r\n", bearer(&ben))), 403, "forbidden_origin"),
        (handshake(at, "", &bearer(&ben)).replace(&format!("Host: {at}"), "Host: evil.example"), 403, "forbidden_origin"),
        (handshake(at, "?ticket=", ""), 401, "unauthorized"),
        (handshake(at, "?ticket=bkr_tkt_nonsense", ""), 401, "unauthorized"),
        (handshake(at, "?ticket=%ff%00", ""), 401, "unauthorized"),
        (handshake(at, &format!("?ticket={}", "x".repeat(4_000)), ""), 401, "unauthorized"),
        // A token or a session's secret is no ticket.
        (handshake(at, &format!("?ticket={}", ben.token), ""), 401, "unauthorized"),
        (handshake(at, &format!("?token={}", ben.token), ""), 401, "unauthorized"),
    ];
    for (head, status, code) in cases {
        let (given, told, answer) = asks(&office, &head).await;
        assert_eq!((given, told.as_str()), (status, code), "{head}{answer}");
    }
    assert_eq!(office.app.hub.count(), 0);
    assert_eq!(asks(&office, &handshake(at, "", &format!("{}{own}", bearer(&ben)))).await.0, 101);

    // A ticket is good once, of the right origin, and ends with whom it was given to.
    let stranger = Device::stranger(at);
    for (device, cookie) in [(&ben, None), (&stranger, Some(cookie.as_str()))] {
        let given = ticket(device, cookie).await;
        let query = format!("?ticket={given}");
        assert_eq!(asks(&office, &handshake(at, &query, &own)).await.0, 101);
        assert_eq!(asks(&office, &handshake(at, &query, &own)).await.0, 401, "it was used");
    }
    let given = ticket(&stranger, Some(&cookie)).await;
    let query = format!("?ticket={given}");
    assert_eq!(asks(&office, &handshake(at, &query, "Origin: http://evil.example\r\n")).await.0, 403);
    assert_eq!(asks(&office, &handshake(at, &query, &own)).await.0, 101, "a refusal for another reason does not use it up");
    let (last, of_ben) = (ticket(&stranger, Some(&cookie)).await, ticket(&ben, None).await);
    stranger.send(stranger.request(Method::POST, "/api/v1/auth/logout").header("cookie", &cookie)).await;
    assert_eq!(asks(&office, &handshake(at, &format!("?ticket={last}"), &own)).await.0, 401, "its session has ended");
    ben.call(Method::DELETE, "/api/v1/sync/devices/ben-1", None).await;
    assert_eq!(asks(&office, &handshake(at, &format!("?ticket={of_ben}"), &own)).await.0, 401, "its device was revoked");
    let (status, code, _) = asks(&office, &handshake(at, "", &bearer(&ben))).await;
    assert_eq!((status, code.as_str()), (401, "device_revoked"));
    // Nobody without a right gets a ticket.
    for request in [stranger.request(Method::POST, "/api/v1/auth/ticket"), ben.request(Method::POST, "/api/v1/auth/ticket")] {
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    listening(&office, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_takes_one_request_of_the_devices_rate() {
    let office = Appliance::with(&format!("[limits]\nrequests_per_second = 1\nrequests_burst = 1\n{RULES}")).await;
    let ben = office.clerk("ben", "A").await;
    let mut socket = Socket::open(&ben).await;
    let (kind, problem) = socket.ask("push_change", serde_json::json!({ "changes": {} })).await;
    assert_eq!((kind.as_str(), &problem["code"]), ("error", &serde_json::json!("rate_limited")));
    assert_eq!(asks(&office, &handshake(office.address, "", &bearer(&ben))).await.0, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_sent_with_the_handshake_are_not_lost() {
    let office = Appliance::with(RULES).await;
    let ben = office.clerk("ben", "A").await;
    let mut wire = Wire::open(office.address).await;
    let mut bytes = handshake(office.address, "", &bearer(&ben)).into_bytes();
    bytes.extend(crate::support::socket::frame(0x81, br#"{"type":"ping","id":"early"}"#));
    wire.send(&bytes).await;
    assert_eq!(wire.reply(crate::support::socket::PATIENCE).await.unwrap().status, 101);
    assert!(String::from_utf8(wire.frame().await.unwrap().1).unwrap().contains("hello"));
    assert!(String::from_utf8(wire.frame().await.unwrap().1).unwrap().contains("early"));
}
