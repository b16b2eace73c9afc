//! Listeners: raw WebSockets that note when a hint arrives, with as little work of their own as possible.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet};

use crate::load::{self, Connection};
use crate::server::{Device, Server};

/// Between two pushes, so that one's hints are out before the next.
const PAUSE: Duration = Duration::from_millis(60);

/// What a round came to.
pub struct Round {
    /// From the push's answer to each hint.
    pub times: Vec<Duration>,
    /// Hints that did not come within a pause.
    pub missing: usize,
    /// Resident memory of the server while all were connected, MiB.
    pub memory: f64,
}

/// Connects every device, has one push so often, and notes when the others hear of it.
pub async fn round(server: &Server, pusher: &Device, listeners: &[Device], pushes: usize) -> Round {
    let arrived: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let local = LocalSet::new();
    let body = |no: usize| {
        let record = load::record(no).replacen('{', &format!(r#"{{"id":"{}","#, load::Ids::Ordered.next()), 1);
        format!(r#"{{"changes":{{"submissions":[{record}]}}}}"#)
    };
    local
        .run_until(async {
            let mut open: Vec<JoinHandle<()>> = Vec::new();
            for device in listeners {
                let stream = connect(server, &device.token).await;
                open.push(tokio::task::spawn_local(listen(stream, arrived.clone())));
            }
            let mut connection = Connection::open(server.address, &pusher.token).await;
            let (mut times, mut missing) = (Vec::new(), 0);
            for no in 0..pushes {
                tokio::time::sleep(PAUSE).await;
                arrived.borrow_mut().clear();
                let (status, answer) = connection.call("POST", "/api/v1/sync/push", &body(no)).await;
                let answered = Instant::now();
                assert!(status == 200 && memchr::memmem::find(&answer, b"\"applied\"}").is_some(), "{}", String::from_utf8_lossy(&answer));
                let deadline = answered + Duration::from_secs(5);
                while arrived.borrow().len() < listeners.len() && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                missing += listeners.len() - arrived.borrow().len();
                times.extend(arrived.borrow().iter().map(|at| at.saturating_duration_since(answered)));
            }
            times.sort();
            let memory = server.memory();
            for task in open {
                task.abort();
            }
            Round { times, missing, memory }
        })
        .await
}

async fn connect(server: &Server, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let request = format!(
        "GET /api/v1/sync/ws HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address
    );
    stream.write_all(request.as_bytes()).await.expect("a handshake");
    let mut read = Vec::new();
    while memchr::memmem::find(&read, b"hello").is_none() {
        assert!(stream.read_buf(&mut read).await.expect("an answer") > 0, "{}", String::from_utf8_lossy(&read));
    }
    // The rest of the greeting is in the same piece, or the next: all of it ends with two braces.
    while !read.ends_with(b"}}") {
        assert!(stream.read_buf(&mut read).await.expect("an answer") > 0);
    }
    stream
}

/// Each piece that arrives is one hint: they are small, and apart in time.
async fn listen(mut stream: TcpStream, arrived: Rc<RefCell<Vec<Instant>>>) {
    let mut piece = [0u8; 1_024];
    while let Ok(read) = stream.read(&mut piece).await {
        if read == 0 {
            return;
        }
        if memchr::memmem::find(&piece[..read], b"change_notification").is_some() {
            arrived.borrow_mut().push(Instant::now());
        }
    }
}
