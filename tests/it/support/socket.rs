//! A live connection: messages by a WebSocket library, and frames by hand for what no library would send.
//!
//! Nothing here waits for a time to pass. Whether something was *not* told shows at a later change that everybody is told of.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::Device;
use super::wire::{Reply, Wire};

/// What comes at all has come by then.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A connection that ended without a close frame.
pub const ABRUPT: u16 = 1006;

/// One change that a hint names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub table: String,
    pub id: String,
    pub operation: String,
    pub version: Option<i64>,
}

/// What a connection was told.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    pub named: Vec<Named>,
    /// Changes of a table that were only counted.
    pub counted: Vec<(String, u64)>,
    pub conflicts: Vec<Value>,
    pub hints: usize,
    pub bytes: usize,
}

impl Heard {
    fn hint(&mut self, payload: &Value) {
        self.hints += 1;
        for (table, changes) in payload["tables"].as_object().unwrap() {
            match changes {
                Value::Array(changes) => self.named.extend(changes.iter().map(|change| Named {
                    table: table.clone(),
                    id: change["id"].as_str().unwrap().into(),
                    operation: change["operation"].as_str().unwrap().into(),
                    version: change["version"].as_i64(),
                })),
                count => self.counted.push((table.clone(), count.as_u64().unwrap())),
            }
        }
    }

    /// Names of a table's records in the order in which they were told.
    pub fn ids(&self, table: &str) -> Vec<&str> {
        self.named.iter().filter(|named| named.table == table).map(|named| named.id.as_str()).collect()
    }

    /// Was a record named, or may it be among those counted?
    pub fn includes(&self, table: &str, id: &str) -> bool {
        self.ids(table).contains(&id) || self.counted.iter().any(|(counted, _)| counted == table)
    }

    /// Changes of a table, named or counted.
    pub fn count(&self, table: &str) -> u64 {
        self.ids(table).len() as u64 + self.counted.iter().filter(|(counted, _)| counted == table).map(|(_, count)| count).sum::<u64>()
    }
}

/// Panics where a message is none of PROTOCOL section 7.
#[track_caller]
fn check(message: &Value) {
    let keys = |value: &Value| value.as_object().map(|members| members.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    assert_eq!(keys(message), ["id", "payload", "type"], "{message}");
    let payload = &message["payload"];
    let names = keys(payload);
    let kind = message["type"].as_str().unwrap();
    let unasked = ["hello", "change_notification", "conflict_notification"].contains(&kind);
    assert!(!unasked || message["id"].is_null(), "{message}");
    match kind {
        "hello" => assert_eq!(names, ["cursor", "epoch", "timestamp", "version"]),
        "change_notification" => {
            assert_eq!(names, ["cursor", "tables"]);
            for changes in payload["tables"].as_object().unwrap().values() {
                let Some(changes) = changes.as_array() else {
                    assert!(changes.as_u64().unwrap() > 64, "few changes are named: {message}");
                    continue;
                };
                assert!((1..=64).contains(&changes.len()), "{message}");
                for change in changes {
                    assert_eq!(keys(change), ["id", "operation", "version"], "{message}");
                    assert!(["create", "update", "delete", "evict"].contains(&change["operation"].as_str().unwrap()), "{message}");
                    assert_eq!(change["version"].is_null(), change["operation"] == "evict", "{message}");
                }
            }
        }
        "conflict_notification" if names == ["count"] => assert!(payload["count"].as_u64().unwrap() > 0),
        "conflict_notification" => assert_eq!(names, ["conflict_id", "record_id", "status", "suggested_resolution", "table"]),
        "subscribed" => assert_eq!(names, ["tables"]),
        "pong" => assert!(names.is_empty()),
        "error" => {
            let problem = payload.get("results").is_some() || payload["code"].is_string();
            assert!(problem && payload["request_id"].is_string(), "{message}");
        }
        "sync_complete" => {}
        other => panic!("{other} is no type: {message}"),
    }
}

/// A live connection.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The payload of its hello.
    pub hello: Value,
    /// Unasked messages that came before an answer.
    aside: VecDeque<Value>,
    count: u64,
}

impl Socket {
    /// A device's.
    pub async fn open(device: &Device) -> Socket {
        Self::over(TcpStream::connect(device.address).await.unwrap(), device).await.unwrap()
    }

    /// A device's, over a connection that exists (perhaps to a proxy, which may cut it).
    pub async fn over(stream: TcpStream, device: &Device) -> Result<Socket, u16> {
        Self::begin(stream, device.address, "", Some(format!("Bearer {}", device.token))).await
    }

    /// The holder's of a ticket.
    pub async fn by_ticket(address: SocketAddr, ticket: &str) -> Socket {
        Self::begin(TcpStream::connect(address).await.unwrap(), address, &format!("?ticket={ticket}"), None).await.unwrap()
    }

    async fn begin(stream: TcpStream, address: SocketAddr, query: &str, bearer: Option<String>) -> Result<Socket, u16> {
        let mut request = format!("ws://{address}/api/v1/sync/ws{query}").into_client_request().unwrap();
        if let Some(bearer) = bearer {
            request.headers_mut().insert("authorization", bearer.parse().unwrap());
        }
        let shaken = tokio::time::timeout(PATIENCE, tokio_tungstenite::client_async(request, stream)).await.expect("no handshake");
        let (stream, _) = shaken.map_err(|error| match error {
            tokio_tungstenite::tungstenite::Error::Http(response) => response.status().as_u16(),
            _ => 0,
        })?;
        let mut socket = Socket { stream, hello: Value::Null, aside: VecDeque::new(), count: 0 };
        let hello = socket.next().await?;
        assert_eq!(hello["type"], "hello", "{hello}");
        socket.hello = hello["payload"].clone();
        Ok(socket)
    }

    /// The next message, or the code with which the connection ended.
    pub async fn next(&mut self) -> Result<Value, u16> {
        if let Some(message) = self.aside.pop_front() {
            return Ok(message);
        }
        loop {
            let received = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("nothing came");
            match received {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    check(&message);
                    return Ok(message);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map_or(ABRUPT, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(ABRUPT),
            }
        }
    }

    /// The next hint's payload; news of conflicts are passed over.
    pub async fn hint(&mut self) -> Value {
        loop {
            let message = self.next().await.unwrap();
            match message["type"].as_str().unwrap() {
                "change_notification" => return message["payload"].clone(),
                "conflict_notification" => {}
                _ => panic!("nobody asked for {message}"),
            }
        }
    }

    /// All that comes until a record is named.
    pub async fn until(&mut self, table: &str, id: &str) -> Heard {
        let mut heard = Heard::default();
        while !heard.ids(table).contains(&id) {
            let message = self.next().await.unwrap_or_else(|code| panic!("it ended with {code} before {table}/{id}: {heard:?}"));
            heard.bytes += message.to_string().len();
            match message["type"].as_str().unwrap() {
                "change_notification" => heard.hint(&message["payload"]),
                "conflict_notification" => heard.conflicts.push(message["payload"].clone()),
                _ => panic!("nobody asked for {message}"),
            }
        }
        heard
    }

    /// Sends text.
    pub async fn send(&mut self, text: impl Into<String>) {
        self.stream.send(Message::text(text.into())).await.unwrap();
    }

    /// Sends text where the other end may have gone.
    pub async fn try_send(&mut self, text: impl Into<String>) {
        let _ = self.stream.send(Message::text(text.into())).await;
    }

    /// Sends a ping of the protocol below messages.
    pub async fn ping(&mut self, payload: &'static [u8]) {
        self.stream.send(Message::Ping(payload.into())).await.unwrap();
    }

    /// The next message that answers; unasked ones are kept.
    pub async fn answer(&mut self) -> Value {
        let mut kept = VecDeque::new();
        loop {
            let message = self.next().await.unwrap();
            if !["change_notification", "conflict_notification"].contains(&message["type"].as_str().unwrap()) {
                kept.append(&mut self.aside);
                self.aside = kept;
                return message;
            }
            kept.push_back(message);
        }
    }

    /// Asks for something; the type and the payload of the answer.
    pub async fn ask(&mut self, kind: &str, payload: Value) -> (String, Value) {
        self.count += 1;
        let id = format!("m{}", self.count);
        self.send(json!({ "type": kind, "id": id, "payload": payload }).to_string()).await;
        let answer = self.answer().await;
        assert_eq!(answer["id"], id, "{answer}");
        (answer["type"].as_str().unwrap().to_owned(), answer["payload"].clone())
    }

    /// The code with which it ends, whatever is told before.
    pub async fn ended(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Closes it as a client should, and waits until the other end did.
    pub async fn close(mut self) {
        let _ = self.stream.close(None).await;
        while let Ok(Some(Ok(_))) = tokio::time::timeout(PATIENCE, self.stream.next()).await {}
    }

    /// Cuts it: the other end meets a reset.
    pub fn cut(self) {
        let _ = self.stream.get_ref().set_zero_linger();
    }
}

/// A ticket for whoever holds a token or, in a browser, a cookie.
pub async fn ticket(device: &Device, cookie: Option<&str>) -> String {
    let request = device.request(Method::POST, "/api/v1/auth/ticket");
    let request = if let Some(cookie) = cookie { request.header("cookie", cookie) } else { request };
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    answer["ticket"].as_str().unwrap().to_owned()
}

/// A handshake by hand, with further header lines.
pub fn handshake(address: SocketAddr, query: &str, extra: &str) -> String {
    format!(
        "GET /api/v1/sync/ws{query} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

/// The header line with a device's token.
pub fn bearer(device: &Device) -> String {
    format!("Authorization: Bearer {}\r\n", device.token)
}

/// A client's frame: its first byte (`0x80`: the last of a message, then the kind) and what it carries, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        size @ ..126 => bytes.push(0x80 | size as u8),
        size @ ..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((size as u16).to_be_bytes());
        }
        size => {
            bytes.push(0x80 | 127);
            bytes.extend((size as u64).to_be_bytes());
        }
    }
    let mask = [7_u8, 77, 177, 250];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

impl Wire {
    /// Over a connection that exists.
    pub fn over(stream: TcpStream) -> Wire {
        Wire { stream, rest: Vec::new() }
    }

    /// Shakes hands, whatever comes of it.
    pub async fn shake(&mut self, head: &str) -> Reply {
        self.send(head.as_bytes()).await;
        self.reply(PATIENCE).await.expect("the handshake had no answer")
    }

    /// A live connection of a device, without having read anything of it.
    pub async fn live(device: &Device) -> Wire {
        let mut wire = Wire::open(device.address).await;
        let reply = wire.shake(&handshake(device.address, "", &bearer(device))).await;
        assert_eq!(reply.status, 101, "{}", reply.head);
        wire
    }

    /// The next frame of the server: its first byte and what it carries; `None` at the end.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            loop {
                if let Some(frame) = self.take_frame() {
                    return Some(frame);
                }
                let mut piece = vec![0; 64 << 10];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(size) => self.rest.extend_from_slice(&piece[..size]),
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("neither a frame nor the end")
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.rest.first()?, *self.rest.get(1)?);
        assert!(second & 0x80 == 0, "a server does not mask");
        let (start, size) = match second {
            126 => (4, u64::from(u16::from_be_bytes(self.rest.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.rest.get(2..10)?.try_into().unwrap())),
            size => (2, u64::from(size)),
        };
        let payload = self.rest.get(start..start + size as usize)?.to_vec();
        self.rest.drain(..start + payload.len());
        Some((first, payload))
    }

    /// The code of the close frame, after which the connection ends; `None` where it ended without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        let code = loop {
            match self.frame().await? {
                (0x88, payload) => break u16::from_be_bytes(payload.get(..2)?.try_into().unwrap()),
                _ => continue,
            }
        };
        // A pong may have been on its way.
        while let Some((first, _)) = self.frame().await {
            assert_eq!(first, 0x8a, "after a close frame nothing comes");
        }
        Some(code)
    }

    /// Cuts it: the other end meets a reset.
    pub fn cut(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Sends bytes one by one.
    pub async fn drip(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}
