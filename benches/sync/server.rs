//! The server under test: the release binary, on a free port, in its own directory.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::Connection;

pub const BINARY: &str = env!("CARGO_BIN_EXE_backroom");

/// One device.
#[derive(Debug, Clone)]
pub struct Device {
    pub token: String,
    pub store: String,
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    directory: Option<tempfile::TempDir>,
    pub address: SocketAddr,
    /// From the start of the process to its first answer.
    pub first_answer: Duration,
    admin: String,
}

fn cli(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(BINARY).arg("--data-dir").arg(directory).args(arguments).output().expect("the command line runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Server {
    /// On an empty directory beside the build (a real disk, not a temporary memory file system).
    pub async fn start() -> Server {
        Self::start_with("").await
    }

    /// With rules of its own; none are the preset's.
    pub async fn start_with(rules: &str) -> Server {
        let directory = tempfile::tempdir_in(Path::new(BINARY).parent().unwrap_or(Path::new("."))).expect("a directory");
        std::fs::write(directory.path().join("backroom.toml"), rules).expect("its rules");
        let mut server = Self::spawn(directory).await;
        cli(server.path(), &["user", "add", "root", "--role", "admin", "--no-password"]);
        server.admin = server.enroll("root").await;
        server
    }

    async fn spawn(directory: tempfile::TempDir) -> Server {
        let began = Instant::now();
        let mut command = Command::new(BINARY);
        command.arg("--data-dir").arg(directory.path()).args(["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = loop {
            let line = lines.next().expect("a line").expect("text");
            if let Some((_, address)) = line.split_once("listens on http://") {
                break address.trim().parse().expect("an address");
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        let (status, _) = Connection::open(address, "").await.call("GET", "/readyz", "").await;
        assert_eq!(status, 200);
        Server { child, directory: Some(directory), address, first_answer: began.elapsed(), admin: String::new() }
    }

    /// Stops it as an owner would, and starts it again.
    pub async fn restart(mut self) -> Server {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.child.wait();
        Self::spawn(self.directory.take().expect("its directory")).await
    }

    fn path(&self) -> &Path {
        self.directory.as_ref().expect("its directory").path()
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.path().join("backroom.db")
    }

    async fn enroll(&self, user: &str) -> String {
        let code = cli(self.path(), &["device", "invite", "--user", user, "--quiet"]);
        for _ in 0..100 {
            let body = json!({ "code": code, "name": "bench" }).to_string();
            let (status, answer) = Connection::open(self.address, "").await.call("POST", "/api/v1/devices/enroll", &body).await;
            if status == 200 {
                let answer: Value = serde_json::from_slice(&answer).expect("JSON");
                return answer["token"].as_str().expect("a token").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{user} could not enrol");
    }

    /// Devices of one store.
    pub async fn devices(&self, count: usize) -> Vec<Device> {
        self.devices_of(count, |_| "S".into()).await
    }

    /// Devices, each of its own user and of the store that its number has.
    pub async fn devices_of(&self, count: usize, store: impl Fn(usize) -> String) -> Vec<Device> {
        let mut devices = Vec::new();
        for no in 0..count {
            let (user, store) = (format!("till-{no}"), store(no));
            cli(self.path(), &["user", "add", &user, "--role", "store", "--store", &store, "--no-password"]);
            devices.push(Device { token: self.enroll(&user).await, store });
        }
        devices
    }

    /// Many devices of one user of store S.
    pub async fn crowd(&self, count: usize) -> Vec<Device> {
        cli(self.path(), &["user", "add", "crowd", "--role", "store", "--store", "S", "--no-password"]);
        let mut devices = Vec::new();
        for _ in 0..count {
            devices.push(Device { token: self.enroll("crowd").await, store: "S".into() });
        }
        devices
    }

    /// Waits until no device is connected.
    pub async fn alone(&self) {
        for _ in 0..1_000 {
            if self.status().await["connected_devices"] == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("devices stay connected");
    }

    /// The status, as the admin sees it.
    pub async fn status(&self) -> Value {
        let (status, body) = Connection::open(self.address, &self.admin).await.call("GET", "/api/v1/sync/status", "").await;
        assert_eq!(status, 200);
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Jobs and commits of the writer.
    pub async fn writer(&self) -> (u64, u64) {
        let status = self.status().await;
        let count = |name: &str| status["writer"][name].as_u64().expect("a count");
        (count("jobs"), count("commits"))
    }

    /// An admin's cleanup of everything; how long it took.
    pub async fn cleanup(&self) -> Duration {
        let began = Instant::now();
        let (status, body) =
            Connection::open(self.address, &self.admin).await.call("POST", "/api/v1/sync/cleanup", r#"{"days_old":0}"#).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(answer["removed"]["tombstones"], 10_000, "{answer}");
        began.elapsed()
    }

    /// Resident memory, MiB.
    pub fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
    }

    /// Bytes that the process has sent to the disk.
    pub fn written(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        let line = io.lines().find(|line| line.starts_with("write_bytes:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
