//! `backroom serve`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::http::listener;
use crate::ops::place;
use crate::store::Clock;
use crate::sync::{App, office};
use crate::{server, telemetry};

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Address and port; default 0.0.0.0:8484
    #[arg(long, env = "BACKROOM_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Use a network file system all the same
    #[arg(long, env = "BACKROOM_ALLOW_NETWORK_FS")]
    allow_network_fs: bool,
}

pub(super) fn run(directory: &Path, arguments: Arguments) -> anyhow::Result<()> {
    place::prepare(directory, arguments.allow_network_fs)?;
    let (mut config, _) = Config::load(directory)?;
    if let Some(listen) = arguments.listen {
        config.server.listen = listen;
    }
    telemetry::start(&config.log.level, config.log.format == "json");
    let _lock = place::lock(directory)?;
    // Each connection is an open file, and live ones leave half of them to the others.
    let files = raise_descriptors().saturating_sub(64).max(16);
    config.live.sockets = config.live.sockets.min(files - config.server.connections.min(files / 2));
    config.server.connections = config.server.connections.min(files - config.live.sockets);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(workers()).max_blocking_threads(16).build()?;
    runtime.block_on(serve(directory.to_owned(), config))
}

/// Async threads: they parse and write JSON, so as many as cores, but at least two.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8))
}

/// As many open files as the system allows. Returns how many that is.
fn raise_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).is_ok();
    let limit = if raised { now.maximum } else { now.current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

async fn serve(directory: PathBuf, config: Config) -> anyhow::Result<()> {
    // From here on a signal waits until it is heard: whoever starts this may stop it at any moment.
    let heard = Signals::hear()?;
    let app = server::open(&directory, &config, Clock::default())
        .await
        .with_context(|| format!("cannot open the database in {}", directory.display()))?;
    let listening = listener::bind(config.server.listen).with_context(|| format!("cannot listen on {}", config.server.listen))?;
    let address = listening.local_addr()?;
    println!("backroom {} listens on http://{address}", env!("CARGO_PKG_VERSION"));
    let (stop, stopped) = watch::channel(false);
    let signals = tokio::spawn(signals(heard, app.clone(), directory.clone(), stop));
    greet(&app, address).await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    server::run(app, &config, listening, stopped).await;
    signals.abort();
    watchdog.abort();
    tracing::info!("stopped");
    Ok(())
}

/// On an empty database: the set-up link, one for each address that this machine can be reached by.
async fn greet(app: &App, address: SocketAddr) -> anyhow::Result<()> {
    let path = app.setup_link();
    let Some(code) = server::setup_code(app).await? else {
        let _ = std::fs::remove_file(path);
        return Ok(());
    };
    let links: Vec<String> = reachable(address).into_iter().map(|at| format!("http://{at}/setup#{code}")).collect();
    println!("\nThere is no user yet. Open one of these links within 30 minutes to make the first admin:\n");
    for link in &links {
        println!("  {link}");
    }
    println!("\nor run: backroom user add NAME --role admin\n");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
    writeln!(file, "{}", links.join("\n"))?;
    Ok(())
}

/// Never 0.0.0.0: nobody can open that.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    if !address.ip().is_unspecified() {
        return vec![address];
    }
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let mut found: Vec<IpAddr> =
        all.iter().map(if_addrs::Interface::ip).filter(|ip| !link_local(ip) && (ip.is_ipv4() || address.is_ipv6())).collect();
    found.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    found.dedup();
    if found.is_empty() {
        found.push(IpAddr::from([127, 0, 0, 1]));
    }
    found.into_iter().map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// The signals that are listened to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn hear() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// SIGTERM and SIGINT stop; SIGHUP reads the rules again.
async fn signals(mut heard: Signals, app: Arc<App>, directory: PathBuf, stop: watch::Sender<bool>) {
    loop {
        tokio::select! {
            _ = heard.terminate.recv() => break,
            _ = heard.interrupt.recv() => break,
            _ = heard.hangup.recv() => reload(&app, &directory).await,
        }
    }
    tracing::info!("stopping: no new connections, requests under way are finished");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = stop.send(true);
}

/// A bad file is refused as a whole, and the old rules stay.
async fn reload(app: &App, directory: &Path) {
    let adopted = match Config::load(directory) {
        Ok((config, _)) => office::adopt(&app.store, config.tables()).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match adopted {
        Ok(office) => {
            app.adopt(office);
            tracing::info!("the rules were read again");
        }
        Err(error) => tracing::error!(error = %error, "the rules were not changed"),
    }
}

/// Tells systemd twice in its interval that the event loop turns.
async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(interval / 2).await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}
