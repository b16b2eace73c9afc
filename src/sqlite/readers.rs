//! Reader connections: as many reads at once as there are connections, each on a blocking thread.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{Error, Result, open};

/// A connection of one's own, for what only makes sense when asked of the same connection each time.
#[derive(Debug)]
pub struct Watcher(Option<Connection>);

impl Watcher {
    /// Opens one.
    pub fn open(path: &Path) -> Result<Watcher> {
        open::reader(path).map(|db| Watcher(Some(db)))
    }

    /// Runs a read on it, outside of any transaction.
    pub async fn run<T, F>(&mut self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let db = self.0.take().ok_or(Error::Closed)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = read(&db);
            (db, result)
        });
        let (db, result) = done.await.map_err(|_| Error::Panicked)?;
        self.0 = Some(db);
        result
    }
}

/// A pool of read-only connections to one file.
#[derive(Debug, Clone)]
pub struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    free: Arc<Semaphore>,
}

impl Readers {
    /// Opens `count` connections.
    pub fn open(path: &Path, count: usize) -> Result<Readers> {
        let idle = (0..count).map(|_| open::reader(path)).collect::<Result<Vec<_>>>()?;
        Ok(Readers { free: Arc::new(Semaphore::new(idle.len())), idle: Arc::new(Mutex::new(idle)) })
    }

    /// Runs a read inside one read transaction, so that everything it sees belongs to the same moment.
    pub async fn run<T, F>(&self, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let permit = self.free.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let idle = self.idle.clone();
        let lock = |idle: &Mutex<Vec<Connection>>| idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let db = lock(&idle).ok_or(Error::Closed)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let transaction = db.unchecked_transaction()?;
                read(&transaction)
            }));
            idle.lock().unwrap_or_else(|e| e.into_inner()).push(db);
            drop(permit);
            result.unwrap_or(Err(Error::Panicked))
        });
        done.await.map_err(|_| Error::Panicked)?
    }
}
