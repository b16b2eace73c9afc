//! Layer 5: the appliance as one running thing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::auth::token;
use crate::config::Config;
use crate::domain::clock::Micros;
use crate::domain::limits;
use crate::http::{self, listener};
use crate::sqlite::readers::Watcher;
use crate::sqlite::writer::Outcome;
use crate::store::{self, Clock, Store, meta, users};
use crate::sync::{self, App, Retention, office, retention};

/// The database's file in the data directory.
pub const DATABASE: &str = "backroom.db";
/// How long a set-up link is valid.
pub const SETUP: Micros = 30 * 60 * 1_000_000;
/// How soon changes by another process (the command line) are seen.
const WATCH: Duration = Duration::from_millis(300);
/// Between two looks at whether the night's work is due.
const NIGHT: Duration = Duration::from_secs(600);

/// Opens the database in a data directory and puts the rules in force.
pub async fn open(directory: &Path, config: &Config, clock: Clock) -> sync::Result<Arc<App>> {
    let store = Store::open(&directory.join(DATABASE), config.server.readers, clock)?;
    store.accounts.limit(config.limits.requests_per_second, config.limits.requests_burst);
    let office = office::adopt(&store, config.tables()).await?;
    let limits = limits::Limits {
        body_bytes: config.limits.body_bytes,
        push_changes: config.limits.push_changes,
        record_bytes: config.limits.record_bytes,
        page_records: config.limits.page_records,
        device_sockets: config.live.device_sockets,
        ..limits::Limits::default()
    };
    let keep = Retention { days: config.retention.days, max_days: config.retention.max_days };
    Ok(Arc::new(App::new(store, office, limits, keep)))
}

/// A one-time set-up code, if there is no user yet. Only its hash is kept.
pub async fn setup_code(app: &App) -> store::Result<Option<String>> {
    let Some(code) = token::code() else { return Ok(None) };
    let hash = token::hash(&token::normal_code(&code)).to_vec();
    let made = app
        .store
        .writer
        .run(move |db, ledger| {
            if !users::all(db)?.is_empty() {
                return Ok(Outcome::Undo(false));
            }
            meta::write(db, meta::SETUP, hash)?;
            meta::write(db, meta::SETUP_ENDS, ledger.now() + SETUP)?;
            Ok(Outcome::Keep(true))
        })
        .await?;
    Ok(made.then_some(code))
}

/// Serves until `stop` turns true; then drains, flushes, checkpoints and closes the file.
pub async fn run(app: Arc<App>, config: &Config, listener: TcpListener, stop: watch::Receiver<bool>) {
    let live = &config.live;
    let settings = http::Settings {
        hosts: config.server.hosts.clone(),
        sockets: live.sockets,
        ping: Duration::from_secs(live.ping_seconds),
        idle: Duration::from_secs(live.idle_seconds),
        metrics_token: Some(config.metrics.token.text()).filter(|token| !token.is_empty()).map(token::hash),
    };
    let telling = tokio::spawn({
        let hub = app.hub.clone();
        async move { hub.run().await }
    });
    let reviewing = tokio::spawn({
        let (accounts, hub) = (app.store.accounts.clone(), app.hub.clone());
        async move {
            loop {
                accounts.changed().await;
                hub.review();
            }
        }
    });
    let watching = tokio::spawn(watch_accounts(app.clone(), stop.clone()));
    let nights = tokio::spawn(keep_house(app.clone(), stop.clone()));
    listener::run(listener, app.clone(), settings, config.server.connections, stop).await;
    let _ = tokio::join!(watching, nights);
    telling.abort();
    reviewing.abort();
    let _ = tokio::join!(telling, reviewing);
    close(app).await;
}

/// Ends the writer after its last commit.
pub async fn close(app: Arc<App>) {
    app.store.accounts.close();
    let thread = app.store.take_thread();
    drop(app);
    if let Some(thread) = thread {
        let _ = tokio::time::timeout(listener::DRAIN, tokio::task::spawn_blocking(move || thread.join())).await;
    }
}

/// Another process may add users or revoke devices: its commits show in `data_version`, which is read from shared memory
/// and touches no disk.
async fn watch_accounts(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut watcher = match Watcher::open(app.store.path()) {
        Ok(watcher) => watcher,
        Err(error) => return tracing::error!(error = %error, "changes by the command line will not be seen"),
    };
    let mut seen = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let (accounts, before) = (app.store.accounts.clone(), seen);
        let looked = watcher.run(move |db| {
            let version: i64 = db.pragma_query_value(None, "data_version", |row| row.get(0))?;
            if before != Some(version) || accounts.is_doubtful() {
                accounts.refresh(db)?;
            }
            Ok(version)
        });
        match looked.await {
            Ok(version) => seen = Some(version),
            Err(error) => tracing::warn!(error = %error, "users and devices could not be read"),
        }
    }
}

/// Retention once a night, after three by UTC, and soon after a start: an appliance that is off at night is not left out.
/// It writes nothing where there is nothing to remove.
async fn keep_house(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut last_day = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(NIGHT) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = app.store.clock.now() - 3 * 3_600_000_000;
        let day = now / crate::domain::clock::DAY;
        if day <= last_day {
            continue;
        }
        last_day = day;
        match retention::cleanup(&app, app.retention.days, None).await {
            Ok(removed) => tracing::info!(removed.rows = removed.total(), "the night's retention is done"),
            Err(error) => tracing::error!(error = %error, "the night's retention failed"),
        }
    }
}
