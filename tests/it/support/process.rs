//! The appliance as a process of its own, for what only a process can show: signals, kills, limits.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

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
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
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

/// `backroom serve` on a free port. Killed when dropped.
pub struct Serving {
    pub child: Child,
    pub address: SocketAddr,
    pub directory: PathBuf,
}

impl Serving {
    /// Starts it and waits for the line that names its address.
    pub fn start(directory: &Path) -> Serving {
        Self::spawn(directory, command(directory, &["serve", "--listen", "127.0.0.1:0"]))
    }

    /// Starts a prepared command (perhaps under strace or with limits).
    pub fn spawn(directory: &Path, mut command: Command) -> Serving {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the appliance ended before it listened").unwrap();
            if let Some((_, address)) = line.split_once("listens on http://") {
                break address.trim().parse().unwrap();
            }
        };
        // Keep reading, so that it can keep printing.
        std::thread::spawn(move || lines.for_each(drop));
        Serving { child, address, directory: directory.to_owned() }
    }

    /// Signs a device in.
    pub async fn device(&self, user: &str, id: &str) -> Device {
        Device::login(self.address, user, id).await
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
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.kill();
    }
}
