//! Layer 2: the server's database, and the only server SQL. One writer, several readers, and what they keep in memory.

pub mod accounts;
pub mod activity;
pub mod audit;
pub mod commits;
pub mod conflicts;
pub mod devices;
pub mod hours;
pub mod ledger;
pub mod live;
pub mod meta;
pub mod page;
pub mod receipts;
pub mod records;
pub mod rejections;
pub mod retention;
pub mod unique;
pub mod users;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use rusqlite::Connection;

use crate::domain::clock::Micros;
pub use crate::sqlite::{Error, Result};
use crate::sqlite::{migrate, open, readers::Readers, writer::Writer};
use crate::telemetry::metrics::Metrics;

use accounts::Accounts;
use commits::Commits;
use hours::Hours;
use ledger::Ledger;
use live::Live;

/// The schema, in order. A shipped file is never edited.
pub const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/server/0001_appliance.sql"),
    include_str!("../../migrations/server/0002_decisions.sql"),
    include_str!("../../migrations/server/0003_live.sql"),
];

/// The server's clock. Tests move it; everything else only reads it.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Microseconds since 1970.
    pub fn now(&self) -> Micros {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_micros() as Micros + self.0.load(Ordering::Relaxed)
    }

    /// Moves the clock by so many microseconds.
    pub fn advance(&self, by: Micros) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    /// Writes, by group commit.
    pub writer: Writer<Ledger>,
    /// Reads.
    pub readers: Readers,
    /// Heads of feeds, as of the last commit.
    pub live: Arc<Live>,
    /// Users and devices, as of the last look.
    pub accounts: Arc<Accounts>,
    /// What commits changed, for the hub.
    pub commits: Arc<Commits>,
    /// Syncs of the last hours.
    pub hours: Arc<Hours>,
    /// Figures since the start.
    pub metrics: Arc<Metrics>,
    /// The server's clock.
    pub clock: Clock,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Opens (and, if need be, creates or upgrades) a database for one process's own use: the command line's commands.
pub fn connect(path: &Path) -> Result<Connection> {
    let mut db = open::writer(path)?;
    migrate::migrate(&mut db, MIGRATIONS)?;
    Ok(db)
}

impl Store {
    /// Opens the database in a directory, with as many readers.
    pub fn open(path: &Path, readers: usize, clock: Clock) -> Result<Store> {
        let db = connect(path)?;
        meta::begin(&db, clock.now())?;
        let live = Arc::new(Live::load(&db)?);
        let accounts = Arc::new(Accounts::load(&db)?);
        let hours = Arc::new(Hours::load(&db, clock.now())?);
        let metrics = Arc::<Metrics>::default();
        let commits = Arc::<Commits>::default();
        let beside = ledger::Beside {
            live: live.clone(),
            accounts: accounts.clone(),
            commits: commits.clone(),
            hours: hours.clone(),
            metrics: metrics.clone(),
        };
        let ledger = Ledger::load(&db, beside, clock.clone())?;
        let (writer, thread) = Writer::spawn(db, ledger).map_err(|e| Error::Schema(e.to_string()))?;
        let readers = Readers::open(path, readers)?;
        Ok(Store {
            writer,
            readers,
            live,
            accounts,
            commits,
            hours,
            metrics,
            clock,
            path: path.to_owned(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the writer's thread, to be joined after the last handle is dropped: it checkpoints and closes the file.
    pub fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}
