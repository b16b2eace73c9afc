//! Bytes that no library would send: each ends its own connection with the code for it, and nothing else.

use serde_json::{Value, json};

use super::{RULES, listening, ring};
use crate::support::socket::{Socket, frame};
use crate::support::wire::Wire;
use crate::support::{Appliance, Device};

const TEXT: u8 = 0x81;
const PING: &str = r#"{"type":"ping","id":7}"#;

struct Office {
    office: Appliance,
    bell: Device,
    ben: Device,
    /// Somebody whom nothing of it concerns.
    other: Socket,
    count: usize,
}

async fn begin(more: &str) -> Office {
    let office = Appliance::with(&format!("{more}{RULES}")).await;
    let (bell, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    let other = Socket::open(&office.clerk("cleo", "A").await).await;
    Office { office, bell, ben, other, count: 0 }
}

impl Office {
    /// After it as before: the place is free, the other one is told of changes.
    async fn is_well(&mut self) {
        listening(&self.office, 1).await;
        self.count += 1;
        let bell = format!("b{}", self.count);
        ring(&self.bell, &bell).await;
        self.other.until("bells", &bell).await;
    }

    /// Sends bytes after the hello; the code that ends the connection.
    async fn after(&mut self, what: &str, bytes: &[&[u8]], code: u16) {
        let mut wire = Wire::live(&self.ben).await;
        for bytes in bytes {
            wire.send(bytes).await;
        }
        assert_eq!(wire.close_code().await, Some(code), "{what}");
        self.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_against_the_standard_end_with_1002() {
    let mut o = begin("").await;
    let unmasked = [&[TEXT, PING.len() as u8], PING.as_bytes()].concat();
    o.after("unmasked", &[&unmasked], 1002).await;
    for bits in [0x40, 0x20, 0x10, 0x70] {
        o.after("a reserved bit", &[&frame(TEXT | bits, PING.as_bytes())], 1002).await;
    }
    for opcode in [0x3, 0x7, 0xb, 0xf] {
        o.after("a reserved opcode", &[&frame(0x80 | opcode, b"x")], 1002).await;
    }
    for opcode in [0x8, 0x9, 0xa] {
        o.after("a control frame in parts", &[&frame(opcode, b"xx")], 1002).await;
        o.after("a control frame of 126 bytes", &[&frame(0x80 | opcode, &[b'x'; 126])], 1002).await;
    }
    o.after("a continuation of nothing", &[&frame(0x80, b"x")], 1002).await;
    o.after("a message within a message", &[&frame(0x01, b"{"), &frame(TEXT, PING.as_bytes())], 1002).await;
    o.after("a close frame of one byte", &[&frame(0x88, b"x")], 1002).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_text_ends_with_1003_and_what_is_not_utf8_with_1007() {
    let mut o = begin("").await;
    o.after("binary", &[&frame(0x82, PING.as_bytes())], 1003).await;
    o.after("binary in parts", &[&frame(0x02, b"ab"), &frame(0x80, b"c")], 1003).await;
    for wrong in [&b"\xff"[..], b"{\"type\":\"ping\xc3\x28\"}", b"\xed\xa0\x80", b"\xf0\x9f\x92"] {
        o.after("wrong UTF-8", &[&frame(TEXT, wrong)], 1007).await;
    }
    o.after("wrong UTF-8 over two frames", &[&frame(0x01, b"\xf0\x9f"), &frame(0x80, b"\x28\x80")], 1007).await;
    o.after("a character that never ends", &[&frame(0x01, b"\xf0\x9f"), &frame(0x80, b"\x92")], 1007).await;
    o.after("a reason that is not UTF-8", &[&frame(0x88, b"\x03\xe8\xff\xfe")], 1007).await;
    // A character that is split rightly is none of it.
    let mut wire = Wire::live(&o.ben).await;
    wire.frame().await.unwrap();
    let text = json!({ "type": "ping", "id": "💧" }).to_string().into_bytes();
    let middle = text.iter().position(|byte| *byte == 0xf0).unwrap() + 2;
    wire.send(&frame(0x01, &text[..middle])).await;
    wire.send(&frame(0x89, b"between")).await;
    wire.send(&frame(0x80, &text[middle..])).await;
    assert_eq!(wire.frame().await.unwrap(), (0x8a, b"between".to_vec()));
    let (_, answer) = wire.frame().await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap(), json!({ "type": "pong", "id": "💧", "payload": {} }));
    // A proper goodbye is answered with its own code.
    wire.send(&frame(0x88, b"\x03\xe8bye")).await;
    assert_eq!(wire.close_code().await, Some(1000));
    o.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_ends_with_1009_before_it_is_held() {
    let mut o = begin("").await;
    for size in [(2_u64 << 20) + 1, 1 << 31, 1 << 62, u64::MAX >> 1] {
        let head = [&[TEXT, 0xff][..], &size.to_be_bytes(), &[1, 2, 3, 4]].concat();
        o.after("a head that announces too much", &[&head], 1009).await;
    }
    let piece = vec![b' '; 300 << 10];
    let (first, next) = (frame(0x01, &piece), frame(0x00, &piece));
    let pieces: Vec<&[u8]> = std::iter::once(&first[..]).chain(std::iter::repeat_n(&next[..], 7)).collect();
    o.after("too much in parts", &pieces, 1009).await;
    o.after("a length that is negative", &[&[&[TEXT, 0xff][..], &u64::MAX.to_be_bytes(), &[1, 2, 3, 4]].concat()], 1009).await;
    // What just fits is served.
    let mut socket = Socket::open(&o.ben).await;
    socket.send(format!("{PING}{}", " ".repeat((2 << 20) - PING.len()))).await;
    assert_eq!(socket.answer().await["type"], "pong");
    drop(socket);
    o.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_ends_with_1008() {
    let mut o = begin("").await;
    let (pings, texts, pongs) = (frame(0x89, b""), frame(TEXT, PING.as_bytes()), frame(0x8a, b""));
    for flood in [pings, texts, pongs] {
        let many = flood.repeat(8_000);
        let mut wire = Wire::live(&o.ben).await;
        wire.send(&many).await;
        assert_eq!(wire.close_code().await, Some(1008));
        drop(wire);
        o.is_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_let_go_and_one_that_answers_pings_stays() {
    let mut o = begin("[live]\nping_seconds = 1\nidle_seconds = 2\n").await;
    let reading = tokio::spawn(async move { o.other.until("bells", "end").await });
    let mut silent = Wire::live(&o.ben).await;
    // Reading without answering: pings come, then the end.
    let mut pings = 0;
    loop {
        match silent.frame().await.unwrap() {
            (0x89, payload) => pings += usize::from(payload.is_empty()),
            (0x88, payload) => {
                assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 4408);
                break;
            }
            _ => {}
        }
    }
    assert!(pings >= 1);
    drop(silent);
    // Bytes one by one are a sign of life only once they are a message.
    let mut drip = Wire::live(&o.ben).await;
    drip.drip(&frame(TEXT, PING.as_bytes())).await;
    let mut first = Value::Null;
    while first["type"] != "pong" {
        let (kind, text) = drip.frame().await.unwrap();
        if kind == TEXT {
            first = serde_json::from_slice(&text).unwrap();
        }
    }
    drip.send(&frame(TEXT, PING.as_bytes())[..5]).await;
    assert_eq!(drip.close_code().await, Some(4408), "half a frame is none");
    drop(drip);
    // The library answers pings when it is read.
    listening(&o.office, 1).await;
    ring(&o.bell, "end").await;
    assert_eq!(reading.await.unwrap().hints, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_understood_has_an_error_for_an_answer_and_nothing_more() {
    let o = begin("").await;
    let mut socket = Socket::open(&o.ben).await;
    let long = "x".repeat(129);
    let cases = [
        ("".into(), Value::Null),
        ("{".into(), Value::Null),
        ("[]".into(), Value::Null),
        ("7".into(), Value::Null),
        ("null".into(), Value::Null),
        (r#"{"id":"a"}"#.into(), json!("a")),
        (r#"{"type":7,"id":"a"}"#.into(), json!("a")),
        (r#"{"type":"ping","id":{}}"#.into(), Value::Null),
        (r#"{"type":"ping","id":[1]}"#.into(), Value::Null),
        (r#"{"type":"ping","id":true}"#.into(), Value::Null),
        (format!(r#"{{"type":"ping","id":"{long}"}}"#), Value::Null),
        (format!(r#"{{"type":"ping","id":{}}}"#, "1".repeat(200)), Value::Null),
        (r#"{"type":"sing","id":"a"}"#.into(), json!("a")),
        (r#"{"type":"","id":5}"#.into(), json!(5)),
        (r#"{"type":"hello","id":"h"}"#.into(), json!("h")),
        (r#"{"type":"ping","id":"a","payload":[]}"#.into(), json!("a")),
        (r#"{"type":"ping","id":"a","payload":"x"}"#.into(), json!("a")),
        (r#"{"type":"subscribe","id":"a","payload":{"tables":"visits"}}"#.into(), json!("a")),
        (r#"{"type":"subscribe","id":"a","payload":{"tables":[1]}}"#.into(), json!("a")),
        (json!({ "type": "subscribe", "id": "a", "payload": { "tables": vec!["visits"; 2_000] } }).to_string(), json!("a")),
        (r#"{"type":"push_change","id":"a"}"#.into(), json!("a")),
        (r#"{"type":"push_change","id":"a","payload":null}"#.into(), json!("a")),
        (r#"{"type":"push_change","id":"a","payload":{"changes":7}}"#.into(), json!("a")),
        (format!(r#"{{"type":"subscribe","id":"d","payload":{}}}"#, r#"{"tables":"#.repeat(50_000)), Value::Null),
        ("[".repeat(1 << 20), Value::Null),
    ];
    for (text, id) in cases {
        socket.send(text.clone()).await;
        let answer = socket.answer().await;
        let shown = &text[..text.len().min(80)];
        assert_eq!((&answer["type"], &answer["id"]), (&json!("error"), &id), "{shown}: {answer}");
        assert_eq!(answer["payload"]["code"], "invalid_request", "{shown}: {answer}");
        assert!(answer["payload"]["status"] == 400 && answer["payload"]["detail"].as_str().unwrap().ends_with('.'), "{answer}");
    }
    // The ids of messages come back as they were written.
    for id in [r#""""#, r#""é\n\"""#, "0", "-1.50", "12345678901234567890", "1e3", "null"] {
        socket.send(format!(r#"{{"type":"ping","id":{id}}}"#)).await;
        let answer = socket.answer().await;
        assert_eq!((answer["type"].as_str(), &answer["id"]), (Some("pong"), &serde_json::from_str::<Value>(id).unwrap()), "{answer}");
    }
    let longest = "é".repeat(128);
    socket.send(json!({ "type": "ping", "id": longest }).to_string()).await;
    assert_eq!(socket.answer().await["id"], longest);
}
