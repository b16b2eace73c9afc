//! HTTP by hand over one socket: for bytes that no client would send, and for knowing which connection is used.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Device;

/// One connection.
#[derive(Debug)]
pub struct Wire {
    pub(super) stream: TcpStream,
    /// Bytes that came and belong to no answer yet.
    pub(super) rest: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The problem's code; empty where the body is none.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The head of a request with a device's token.
pub fn head(device: &Device, path: &str, extra: &str) -> String {
    let token = if device.token.is_empty() { String::new() } else { format!("Authorization: Bearer {}\r\n", device.token) };
    format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{token}{extra}\r\n", device.address)
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Wire {
        Wire { stream: TcpStream::connect(address).await.unwrap(), rest: Vec::new() }
    }

    /// Sends bytes; `false` where the other end has gone.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// A push, whole.
    pub async fn push(&mut self, device: &Device, body: &Value) -> Option<Reply> {
        let body = body.to_string();
        let head = head(device, "/api/v1/sync/push", &format!("Content-Length: {}\r\n", body.len()));
        self.send(format!("{head}{body}").as_bytes()).await;
        self.reply(Duration::from_secs(20)).await
    }

    /// One answer; `None` where the connection ended without one.
    ///
    /// Panics where neither comes in time.
    pub async fn reply(&mut self, within: Duration) -> Option<Reply> {
        let read = async {
            loop {
                if let Some(reply) = self.take() {
                    return Some(reply);
                }
                let mut piece = [0; 16 << 10];
                match self.stream.read(&mut piece).await {
                    Ok(0) | Err(_) => return None,
                    Ok(size) => self.rest.extend_from_slice(&piece[..size]),
                }
            }
        };
        tokio::time::timeout(within, read).await.expect("neither an answer nor the connection's end")
    }

    /// Waits for the connection's end, whatever comes before it.
    pub async fn end(&mut self, within: Duration) {
        while self.reply(within).await.is_some() {}
    }

    fn take(&mut self) -> Option<Reply> {
        let end = self.rest.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
        if self.rest.len() < end + length {
            return None;
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = self.rest[end..end + length].to_vec();
        self.rest.drain(..end + length);
        Some(Reply { status, head, body })
    }
}
