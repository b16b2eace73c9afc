//! Layer 3: the use cases, one file a verb. What a call means, without how it travels.

pub mod accounts;
pub mod answer;
pub mod conflicts;
pub mod delta;
pub mod devices;
pub mod differences;
pub mod figures;
pub mod live;
pub mod office;
pub mod pull;
pub mod push;
pub mod records;
pub mod resolve;
pub mod retention;
pub mod status;
pub mod verify;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::auth::session::Sessions;
use crate::auth::throttle::Throttle;
use crate::auth::ticket::Tickets;
use crate::domain::limits::Limits;
use crate::hub::Hub;
use crate::protocol::problem::Code;
use crate::store::{self, Store};

use office::Office;

/// Why a call fails as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the caller can understand and mend.
    #[error("{1}")]
    Problem(Code, String),
    /// A record is not as the caller saw it: a sentence, and its present version (0: there is none).
    #[error("{0}")]
    Changed(String, i64),
    /// The rules do not hold together.
    #[error("{0}")]
    Rules(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Store(error.into())
    }
}

/// A problem with its sentence.
pub fn problem<T>(code: Code, detail: impl Into<String>) -> Result<T> {
    Err(Error::Problem(code, detail.into()))
}

/// Result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// History, receipts, closed conflicts, rejections and passed tombstones: days.
    pub days: i64,
    /// Tombstones that an active device has not passed: days.
    pub max_days: i64,
}

/// What the use cases work with.
#[derive(Debug)]
pub struct App {
    /// The database.
    pub store: Store,
    office: RwLock<Arc<Office>>,
    /// Limits in force.
    pub limits: Limits,
    /// How long things are kept.
    pub retention: Retention,
    /// Who listens.
    pub hub: Arc<Hub>,
    /// Signed-in browsers.
    pub sessions: Sessions,
    /// What browsers open sockets with.
    pub tickets: Tickets,
    /// Failed logins and enrolments.
    pub throttle: Throttle,
    /// At most two password hashes at once: each takes 19 MiB and a core.
    pub hashing: tokio::sync::Semaphore,
    /// One verify at a time: it holds a reader for as long as its view is large, and pulls need the others.
    pub verifying: tokio::sync::Semaphore,
    /// At most two threads run scripts and schemas, so that slow ones leave the others to everybody else.
    pub scripts: tokio::sync::Semaphore,
    space: Mutex<(Option<Instant>, bool)>,
    directory: PathBuf,
}

/// The file in the data directory that holds the set-up link.
pub const SETUP_LINK: &str = "setup-link";

/// Free space below which writes are refused: the smaller of 2 % of the disk and this.
const LEAST_FREE_BYTES: u64 = 256 << 20;

impl App {
    /// Puts the parts together.
    pub fn new(store: Store, office: Office, limits: Limits, retention: Retention) -> App {
        let directory = store.path().parent().map(PathBuf::from).unwrap_or_default();
        App {
            hub: Arc::new(Hub::new(store.live.clone(), store.commits.clone())),
            store,
            office: RwLock::new(Arc::new(office)),
            limits,
            retention,
            sessions: Sessions::default(),
            tickets: Tickets::default(),
            throttle: Throttle::default(),
            hashing: tokio::sync::Semaphore::new(2),
            verifying: tokio::sync::Semaphore::new(1),
            scripts: tokio::sync::Semaphore::new(2),
            space: Mutex::new((None, false)),
            directory,
        }
    }

    /// The rules in force.
    pub fn office(&self) -> Arc<Office> {
        self.office.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules in force.
    pub fn adopt(&self, office: Office) {
        *self.office.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(office);
        self.hub.rules_changed();
    }

    /// Where the set-up link stands until there is a user, for its owner alone.
    pub fn setup_link(&self) -> PathBuf {
        self.directory.join(SETUP_LINK)
    }

    /// Refuses writes while they are paused or the disk is all but full. The disk is asked at most once a second.
    pub fn accepts_writes(&self) -> Result<()> {
        if self.store.accounts.now().paused {
            return problem(Code::Paused, "An admin has paused writes. Keep your changes and try again.");
        }
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        if space.0.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            *space = (Some(Instant::now()), is_full(&self.directory));
        }
        if space.1 {
            return problem(
                Code::StorageFull,
                "The appliance's disk is almost full. Keep your changes; they can be sent when there is space again.",
            );
        }
        Ok(())
    }
}

fn is_full(directory: &std::path::Path) -> bool {
    rustix::fs::statvfs(directory).is_ok_and(|disk| {
        let (free, whole) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
        whole > 0 && free < LEAST_FREE_BYTES.min(whole / 50)
    })
}
