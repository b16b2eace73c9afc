//! Ten thousand connections from other processes: this test binary, started again for one of its tests.
//!
//! The test below is both: alone it shows that a flood opens what it is asked for; with the variable set it is the flood.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};

/// `ADDRESS COUNT`, for the process that is the flood.
const ORDER: &str = "BACKROOM_TEST_FLOOD";
/// Begins a line of progress.
const WORD: &str = "flood: ";
/// Between two lines of progress.
const STEP: usize = 500;

/// A process that opens connections, says nothing on them and keeps them. It ends when this is dropped.
pub struct Flood {
    child: Child,
    hold: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

/// How many connections one process may hold.
pub fn room() -> usize {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    most.map_or(usize::MAX, |most| most as usize).saturating_sub(64)
}

impl Flood {
    /// Starts one.
    pub fn start(address: SocketAddr, count: usize) -> Flood {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::flood::a_flood_opens_what_it_is_asked_for", "--nocapture", "--test-threads=1"])
            .env(ORDER, format!("{address} {count}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Flood { hold: child.stdin.take(), child, lines }
    }

    /// Waits for its next line of progress: how many are open; `None` when all are.
    pub fn progress(&mut self) -> Option<usize> {
        loop {
            let line = self.lines.next().expect("the flood ended").unwrap();
            // The test harness may have begun the line with the test's name.
            match line.rsplit_once(WORD) {
                Some((_, "all")) => return None,
                Some((_, count)) => return Some(count.parse().unwrap()),
                None => {}
            }
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn be_the_flood(order: &str) {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
    let (address, count) = order.split_once(' ').unwrap();
    let (address, count): (SocketAddr, usize) = (address.parse().unwrap(), count.parse().unwrap());
    let say = |words: &str| {
        let mut out = std::io::stdout();
        writeln!(out, "{WORD}{words}").unwrap();
        out.flush().unwrap();
    };
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        open.push(TcpStream::connect(address).unwrap());
        if open.len().is_multiple_of(STEP) {
            say(&open.len().to_string());
        }
    }
    say("all");
    // Whoever started it lets go of its standard input.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_flood_opens_what_it_is_asked_for() {
    if let Ok(order) = std::env::var(ORDER) {
        return be_the_flood(&order);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut flood = Flood::start(listener.local_addr().unwrap(), STEP + 7);
    let accepted: Vec<TcpStream> = (0..STEP + 7).map(|_| listener.accept().unwrap().0).collect();
    assert_eq!((flood.progress(), flood.progress()), (Some(STEP), None));
    drop(flood);
    for mut one in accepted {
        assert_eq!(one.read(&mut [0]).unwrap_or(0), 0, "it was open until the flood ended");
    }
}
