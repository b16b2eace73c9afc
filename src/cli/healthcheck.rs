//! `backroom healthcheck`: for containers, which have no curl.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::config::Config;

pub(super) fn run(directory: &Path, listen: Option<SocketAddr>) -> anyhow::Result<()> {
    let mut address = match listen {
        Some(listen) => listen,
        None => Config::load(directory)?.0.server.listen,
    };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) });
    }
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(|| format!("nobody listens on {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(1 << 16).read_to_string(&mut answer).context("no answer in time")?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("the appliance on {address} is not ready: {}", answer.lines().next().unwrap_or("no answer"));
    }
    println!("ready");
    Ok(())
}
