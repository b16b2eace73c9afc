//! The appliance as a process of its own, for what only a process can show: signals, kills, limits.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Device, PASSWORD};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_backroom");

/// `backroom --data-dir DIR …`, to be completed.
pub fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("--data-dir").arg(directory).args(arguments);
    command
}

/// Runs a command to its end, with text on its standard input.
pub fn run(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command(directory, arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses what it was asked for ends before it reads.
    if let Err(error) = child.stdin.take().unwrap().write_all(input.as_bytes()) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    child.wait_with_output().unwrap()
}

/// Adds a user by the command line.
pub fn add_user(directory: &Path, name: &str, role: &str, stores: &[&str]) {
    let mut arguments = vec!["user", "add", name, "--role", role, "--password-stdin"];
    for store in stores {
        arguments.extend(["--store", store]);
    }
    let output = run(directory, &arguments, PASSWORD);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Adds a user without a password: the user's devices come by invitation, and no password is hashed.
pub fn add_guest(directory: &Path, name: &str, role: &str, stores: &[&str]) {
    let mut arguments = vec!["user", "add", name, "--role", role, "--no-password"];
    for store in stores {
        arguments.extend(["--store", store]);
    }
    let output = run(directory, &arguments, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A one-time code for a device of a user.
pub fn invite(directory: &Path, user: &str) -> String {
    let output = run(directory, &["device", "invite", "--user", user, "--quiet"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a process wrote so far.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<String>>);

impl Written {
    /// Collects lines until the stream ends.
    fn collect(&self, from: impl Read + Send + 'static) {
        let text = self.0.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let mut text = text.lock().unwrap();
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
            }
        });
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// `backroom serve` on a free port. Killed when dropped.
pub struct Serving {
    pub child: Child,
    pub address: SocketAddr,
    pub directory: PathBuf,
    /// Its standard output.
    pub output: Written,
    /// Its standard error: the log.
    pub log: Written,
}

impl Serving {
    /// Starts it and waits for the line that names its address.
    pub fn start(directory: &Path) -> Serving {
        Self::spawn(directory, command(directory, &["serve", "--listen", "127.0.0.1:0"]))
    }

    /// Starts a prepared command (perhaps under strace or with limits).
    pub fn spawn(directory: &Path, mut command: Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (output, log) = (Written::default(), Written::default());
        // Both are read to their end, so that it can keep printing.
        output.collect(child.stdout.take().unwrap());
        log.collect(child.stderr.take().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        let address = loop {
            let text = output.text();
            let line = text.lines().find_map(|line| line.split_once("listens on http://"));
            if let Some((_, address)) = line {
                break address.trim().parse().unwrap();
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "the appliance did not listen: {ended:?} {}", log.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        Serving { child, address, directory: directory.to_owned(), output, log }
    }

    /// Signs a device in.
    pub async fn device(&self, user: &str, id: &str) -> Device {
        Device::login(self.address, user, id).await
    }

    /// Enrols a device by an invitation from the command line.
    pub async fn enrol(&self, user: &str, id: &str) -> Device {
        let code = invite(&self.directory, user);
        let mut device = Device::stranger(self.address);
        let answer = device.post("/api/v1/devices/enroll", serde_json::json!({ "code": code, "device_id": id, "name": id })).await.ok();
        (device.id, device.token) = (id.into(), answer["token"].as_str().unwrap().into());
        device
    }

    /// A new user without a password, and one device of that user, `<user>-1`.
    pub async fn guest(&self, user: &str, role: &str, stores: &[&str]) -> Device {
        add_guest(&self.directory, user, role, stores);
        self.enrol(user, &format!("{user}-1")).await
    }

    /// A line of /proc/PID/status that is in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name (TERM, HUP).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end, at most so long.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline => return None,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        self.signal("TERM");
        let status = self.ended(Duration::from_secs(15)).expect("it did not end");
        assert!(status.success(), "{status} {}", self.log.text());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}
