//! The load: keep-alive connections that write requests and read answers with as little work of their own as possible, since
//! they share the machine with the server.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::RECORDS;
use crate::server::{Device, Server};

/// How ids are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// UUIDv4.
    Random,
    /// UUIDv7.
    Ordered,
}

impl Ids {
    pub fn name(self) -> &'static str {
        match self {
            Ids::Random => "random",
            Ids::Ordered => "time-ordered",
        }
    }

    pub fn next(self) -> String {
        match self {
            Ids::Random => Uuid::new_v4(),
            Ids::Ordered => Uuid::now_v7(),
        }
        .to_string()
    }
}

/// The fields of a record: about 300 bytes with its id.
pub fn record(no: usize) -> String {
    format!(
        r#"{{"employee":"emp-{:04}","form_id":"form-{:03}","note":"The fridge in the back stood at {}.{} degrees when we came in; door closed, checked again at noon.","shift":"morning","status":"completed","store_id":"S","temperature":{},"title":"Opening check {no}"}}"#,
        no % 977,
        no % 31,
        no % 9,
        no % 7,
        no % 13
    )
}

/// One keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr, token: &str) -> Connection {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let authorization = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        Connection {
            stream,
            head: format!(" HTTP/1.1\r\nhost: {address}\r\n{authorization}content-length: "),
            buffer: Vec::with_capacity(1 << 16),
        }
    }

    /// One request; status and body.
    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        let request = format!("{method} {path}{}{}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await.expect("a request");
        self.buffer.clear();
        let (status, start, length) = loop {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the server closed the connection");
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..end]).expect("text");
                let status = head[9..12].parse().expect("a status");
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().expect("a length"));
                break (status, end + 4, length);
            }
        };
        while self.buffer.len() < start + length {
            assert!(self.stream.read_buf(&mut self.buffer).await.expect("an answer") > 0);
        }
        (status, self.buffer[start..start + length].to_vec())
    }
}

/// What a run of pushes came to.
pub struct Run {
    pub pushes: usize,
    took: Duration,
    times: Vec<Duration>,
}

impl Run {
    pub fn pushes_per_second(&self) -> f64 {
        self.pushes as f64 / self.took.as_secs_f64()
    }

    pub fn records_per_second(&self) -> f64 {
        self.pushes_per_second() * RECORDS as f64
    }

    pub fn percentile(&self, percent: f64) -> Duration {
        let place = (self.times.len() as f64 * percent / 100.0) as usize;
        self.times[place.min(self.times.len() - 1)]
    }
}

/// Devices that push and pull.
pub struct Load {
    address: SocketAddr,
    devices: Vec<Device>,
    ids: Ids,
    count: Cell<usize>,
    /// The fields of records, made beforehand, without their store.
    records: Vec<String>,
}

fn occurrences(body: &[u8], part: &[u8]) -> usize {
    memchr::memmem::find_iter(body, part).count()
}

impl Load {
    pub fn new(server: &Server, devices: Vec<Device>, ids: Ids) -> Load {
        let records = (0..5_000).map(|no| record(no)[1..].replace(r#""store_id":"S","#, "")).collect();
        Load { address: server.address, devices, ids, count: Cell::new(0), records }
    }

    fn body(&self, records: usize, store: &str) -> String {
        let mut body = String::with_capacity(records * 360 + 64);
        body.push_str(r#"{"changes":{"submissions":["#);
        for no in 0..records {
            let count = self.count.get();
            self.count.set(count + 1);
            let _ = write!(
                body,
                r#"{}{{"id":"{}","updated_at":"2025-11-20T10:00:00.000Z","store_id":"{store}",{}"#,
                if no > 0 { "," } else { "" },
                self.ids.next(),
                self.records[count % self.records.len()]
            );
        }
        body.push_str("]}}");
        body
    }

    /// So many pushes in all, over one connection for each device at once.
    pub async fn pushes(&self, pushes: usize) -> Run {
        let body = |device: &Device, _: usize| self.body(RECORDS, &device.store);
        self.run(self.devices.len(), pushes, body, |answer| occurrences(answer, br#""status":"applied""#) == RECORDS).await
    }

    async fn run(&self, connections: usize, pushes: usize, body: impl Fn(&Device, usize) -> String, good: impl Fn(&[u8]) -> bool) -> Run {
        let left = Rc::new(Cell::new(pushes));
        let times = Rc::new(RefCell::new(Vec::with_capacity(pushes)));
        let mut open = Vec::new();
        for device in &self.devices[..connections] {
            open.push((device, Connection::open(self.address, &device.token).await));
        }
        let began = Instant::now();
        let work = open.into_iter().map(|(device, mut connection)| {
            let (left, times, body, good) = (left.clone(), times.clone(), &body, &good);
            async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let text = body(device, left.get());
                    let sent = Instant::now();
                    let (status, answer) = connection.call("POST", "/api/v1/sync/push", &text).await;
                    times.borrow_mut().push(sent.elapsed());
                    assert!(status == 200 && good(&answer), "{status} {}", String::from_utf8_lossy(&answer));
                }
            }
        });
        futures_util::future::join_all(work).await;
        let took = began.elapsed();
        let mut times = times.take();
        times.sort();
        Run { pushes: times.len(), took, times }
    }

    /// One push by one device.
    pub async fn push_as(&self, device: usize) {
        let device = &self.devices[device];
        let body = self.body(RECORDS, &device.store);
        let (status, answer) = Connection::open(self.address, &device.token).await.call("POST", "/api/v1/sync/push", &body).await;
        assert!(status == 200 && occurrences(&answer, br#""status":"applied""#) == RECORDS);
    }

    /// Large pushes by one device.
    pub async fn fill(&self, device: usize, records: usize) {
        let device = &self.devices[device];
        let mut connection = Connection::open(self.address, &device.token).await;
        for _ in 0..records / 1_000 {
            let (status, _) = connection.call("POST", "/api/v1/sync/push", &self.body(1_000, &device.store)).await;
            assert_eq!(status, 200);
        }
    }

    /// Every push edits ten records from a base that others have overwritten: ten conflicts.
    pub async fn conflicts(&self, connections: usize, pushes: usize) -> Run {
        let record = |no: usize, version: &str, at: &str, round: usize| {
            format!(r#"{{"id":"c{no}"{version},"updated_at":"{at}","note":"round {round}","store_id":"S"}}"#)
        };
        let all =
            |version: &str, at: &str, round: usize| (0..RECORDS).map(|no| record(no, version, at, round)).collect::<Vec<_>>().join(",");
        for (device, version) in [(0, ""), (connections, r#","version":1"#)] {
            let body = format!(r#"{{"changes":{{"submissions":[{}]}}}}"#, all(version, "2025-11-20T12:00:00Z", device + 1));
            let (status, _) =
                Connection::open(self.address, &self.devices[device].token).await.call("POST", "/api/v1/sync/push", &body).await;
            assert_eq!(status, 200);
        }
        let body = |_: &Device, no: usize| {
            format!(r#"{{"changes":{{"submissions":[{}]}}}}"#, all(r#","version":1"#, "2025-11-20T11:00:00Z", 1_000 + no))
        };
        self.run(connections, pushes, body, |answer| occurrences(answer, br#""conflict_id":""#) == RECORDS).await
    }

    /// Two devices edit the same ten records in turn, each its own fields. The second device's pushes are timed: those that
    /// begin from what the first one left, and those that begin from before that, so that every record is merged. `dry`: they
    /// are only foretold, so nothing waits for the disk.
    pub async fn merges(&self, rounds: usize, dry: bool) -> (Run, Run) {
        let mut first = Connection::open(self.address, &self.devices[0].token).await;
        let mut second = Connection::open(self.address, &self.devices[1].token).await;
        let (mut plain, mut merged) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        let kind = if dry { "d" } else { "w" };
        for round in 0..=rounds {
            for (set, times) in [("p", &mut plain), ("m", &mut merged)] {
                // Each round is two versions: the first device's and the second's.
                let version = if dry { round } else { 2 * round };
                let base = |version: usize| if version == 0 { String::new() } else { format!(r#""version":{version},"#) };
                let body = |version: usize, fields: &dyn Fn(usize) -> String, options: &str| {
                    let record = |no: usize| {
                        let id = format!("{kind}{set}{no}");
                        let (at, rest) = ("2025-11-20T10:00:00.000Z", &self.records[no]);
                        format!(r#"{{"id":"{id}",{}"updated_at":"{at}","store_id":"S",{},{rest}"#, base(version), fields(no))
                    };
                    let records: Vec<String> = (0..RECORDS).map(record).collect();
                    format!(r#"{{{options}"changes":{{"progress":[{}]}}}}"#, records.join(","))
                };
                // What the second device last wrote, which both have seen.
                let before = if dry { 0 } else { round };
                let theirs = |_: usize| format!(r#""done":{before},"opened":{},"spent":{before}"#, round + 1);
                let (status, answer) = first.call("POST", "/api/v1/sync/push", &body(version, &theirs, "")).await;
                assert!(status == 200 && occurrences(&answer, br#""status":"applied""#) == RECORDS, "{}", String::from_utf8_lossy(&answer));
                let merges = set == "m" && version > 0;
                let (base, opened) = if merges { (version, round) } else { (version + 1, round + 1) };
                let ours = |_: usize| format!(r#""done":{},"opened":{opened},"spent":{}"#, before + 1, before + 1);
                let options = if dry { r#""dry_run":true,"# } else { "" };
                let text = body(base, &ours, options);
                let sent = Instant::now();
                let (status, answer) = second.call("POST", "/api/v1/sync/push", &text).await;
                let took = sent.elapsed();
                let wanted: &[u8] = if merges { br#""status":"merged""# } else { br#""status":"applied""# };
                assert!(status == 200 && occurrences(&answer, wanted) == RECORDS, "{round} {set} {}", String::from_utf8_lossy(&answer));
                if round > 0 {
                    times.push(took);
                }
            }
        }
        let run = |mut times: Vec<Duration>| {
            times.sort();
            Run { pushes: times.len(), took: times.iter().sum(), times }
        };
        (run(plain), run(merged))
    }

    /// Records created and deleted by one device, which every device then passes.
    pub async fn tombstones(&self, device: usize, count: usize) {
        let device_ = &self.devices[device];
        let mut connection = Connection::open(self.address, &device_.token).await;
        for deleted in ["", r#","deleted":true,"version":1"#] {
            for batch in 0..count / 1_000 {
                let records: Vec<String> = (0..1_000).map(|no| format!(r#"{{"id":"t{batch}-{no}","store_id":"S"{deleted}}}"#)).collect();
                let body = format!(r#"{{"changes":{{"submissions":[{}]}}}}"#, records.join(","));
                assert_eq!(connection.call("POST", "/api/v1/sync/push", &body).await.0, 200);
            }
        }
    }

    /// The cursor after everything.
    pub async fn cursor(&self, device: usize) -> String {
        let mut cursor = String::new();
        loop {
            let (_, next, more) = self.page(device, &cursor, 10_000).await;
            cursor = next;
            if !more {
                return cursor;
            }
        }
    }

    async fn page(&self, device: usize, cursor: &str, limit: usize) -> (usize, String, bool) {
        let mut connection = Connection::open(self.address, &self.devices[device].token).await;
        page(&mut connection, cursor, limit).await
    }

    /// A page after a cursor: records and the next cursor.
    pub async fn pull_from(&self, device: usize, cursor: &str, limit: usize) -> (usize, String) {
        let (records, next, _) = self.page(device, cursor, limit).await;
        (records, next)
    }

    /// All pages from zero, over one connection; the number of records.
    pub async fn pull_all(&self, device: usize, limit: usize) -> usize {
        let mut connection = Connection::open(self.address, &self.devices[device].token).await;
        let (mut records, mut cursor) = (0, String::new());
        loop {
            let (count, next, more) = page(&mut connection, &cursor, limit).await;
            (records, cursor) = (records + count, next);
            if !more {
                return records;
            }
        }
    }

    /// One pull that finds nothing.
    pub async fn poll(&self, device: usize, cursor: &str) {
        assert_eq!(self.pull_from(device, cursor, 1_000).await.0, 0);
    }

    /// Idle pulls by every device for a time; how many a second.
    pub async fn polls(&self, time: Duration) -> f64 {
        let mut open = Vec::new();
        for (no, device) in self.devices.iter().enumerate() {
            open.push((Connection::open(self.address, &device.token).await, self.cursor(no).await));
        }
        let count = Rc::new(Cell::new(0usize));
        let began = Instant::now();
        let local = LocalSet::new();
        for (mut connection, cursor) in open {
            let count = count.clone();
            local.spawn_local(async move {
                let body = format!(r#"{{"cursor":"{cursor}"}}"#);
                while began.elapsed() < time {
                    let (status, answer) = connection.call("POST", "/api/v1/sync/pull", &body).await;
                    assert!(
                        status == 200 && occurrences(&answer, br#""changes":{}"#) == 1,
                        "{status} {}",
                        String::from_utf8_lossy(&answer)
                    );
                    count.set(count.get() + 1);
                }
            });
        }
        local.await;
        count.get() as f64 / began.elapsed().as_secs_f64()
    }
}

async fn page(connection: &mut Connection, cursor: &str, limit: usize) -> (usize, String, bool) {
    let body = if cursor.is_empty() { format!(r#"{{"limit":{limit}}}"#) } else { format!(r#"{{"cursor":"{cursor}","limit":{limit}}}"#) };
    let (status, answer) = connection.call("POST", "/api/v1/sync/pull", &body).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let text = std::str::from_utf8(&answer).expect("text");
    let start = text.find(r#""cursor":""#).expect("a cursor") + 10;
    let next = text[start..start + text[start..].find('"').expect("its end")].to_owned();
    (occurrences(&answer, br#"{"id":"#), next, text[..200.min(text.len())].contains(r#""has_more":true"#))
}
