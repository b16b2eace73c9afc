//! The one writer: a thread that drains whatever is waiting, runs each job in a savepoint, commits once, then answers all.
//!
//! There is no artificial delay: while one commit syncs, the next batch gathers by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Error, Result};

/// Jobs that may wait. Beyond it callers wait for room, so a flood costs its senders, not memory.
const QUEUE: usize = 1_024;
/// Jobs in one commit.
const BATCH: usize = 512;
/// Work in one commit after which the rest waits for the next, so that the first is not held up.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// How long the writer looks for another job before it sleeps, after one that came alone.
const SOON: Duration = Duration::from_micros(200);

/// What a writer keeps in memory beside the file, moved in step with it.
pub trait State: Send + 'static {
    /// The running job is kept or undone.
    fn end_job(&mut self, kept: bool);
    /// Last writes of a batch, inside its transaction.
    fn before_commit(&mut self, db: &Connection) -> rusqlite::Result<()>;
    /// The batch is durable (`true`) or gone.
    fn end_batch(&mut self, durable: bool);
}

impl State for () {
    fn end_job(&mut self, _: bool) {}
    fn before_commit(&mut self, _: &Connection) -> rusqlite::Result<()> {
        Ok(())
    }
    fn end_batch(&mut self, _: bool) {}
}

/// What a job says of its own work.
#[derive(Debug)]
pub enum Outcome<T> {
    /// Keep what was written.
    Keep(T),
    /// Roll the savepoint back and answer all the same.
    Undo(T),
}

type Answer = Box<dyn FnOnce(Result<()>) + Send>;
type Job<S> = Box<dyn FnOnce(&Connection, &mut S) -> Result<(bool, Answer)> + Send>;

struct Queued<S> {
    job: Job<S>,
    refuse: Box<dyn FnOnce(Error) + Send>,
}

/// What the writer did since it began.
#[derive(Debug, Default)]
pub struct Counts {
    /// Jobs run, kept or not.
    pub jobs: AtomicU64,
    /// Transactions committed.
    pub commits: AtomicU64,
}

/// A handle to the writer's queue. Cheap to clone; the thread ends when all handles are gone.
pub struct Writer<S> {
    queue: mpsc::Sender<Queued<S>>,
    counts: Arc<Counts>,
}

impl<S> Clone for Writer<S> {
    fn clone(&self) -> Self {
        Writer { queue: self.queue.clone(), counts: self.counts.clone() }
    }
}

impl<S> std::fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl<S: State> Writer<S> {
    /// Starts the thread. It checkpoints and closes the file when the last handle is dropped.
    pub fn spawn(db: Connection, state: S) -> std::io::Result<(Writer<S>, JoinHandle<()>)> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let thread = std::thread::Builder::new().name("writer".into()).spawn(move || run(&db, state, jobs, &counted))?;
        Ok((Writer { queue, counts }, thread))
    }

    /// What it did so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Runs a job inside the next commit and answers when that is durable.
    pub async fn run<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut S) -> Result<Outcome<T>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        // Two places may have to answer, the batch or the refusal, and only one of them will.
        let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
        let answer = move |result: Result<T>| {
            let taken = sender.lock().unwrap_or_else(|e| e.into_inner()).take();
            if let Some(sender) = taken {
                let _ = sender.send(result);
            }
        };
        let refuse = answer.clone();
        let queued = Queued {
            job: Box::new(move |db, state| {
                let (kept, value) = match job(db, state)? {
                    Outcome::Keep(value) => (true, value),
                    Outcome::Undo(value) => (false, value),
                };
                Ok((kept, Box::new(move |durable: Result<()>| answer(durable.map(|()| value))) as Answer))
            }),
            refuse: Box::new(move |error| refuse(Err(error))),
        };
        self.queue.send(queued).await.map_err(|_| Error::Closed)?;
        receiver.await.map_err(|_| Error::Closed)?
    }
}

fn run<S: State>(db: &Connection, mut state: S, mut jobs: mpsc::Receiver<Queued<S>>, counts: &Counts) {
    let mut alone = false;
    while let Some(first) = if alone { soon(&mut jobs) } else { None }.or_else(|| jobs.blocking_recv()) {
        alone = batch(db, &mut state, first, &mut jobs, counts) == 1;
    }
    let _ = db.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
        state.before_commit(db)?;
        db.execute_batch("COMMIT")
    });
    let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// Waits a moment for a device that goes on at once, giving way to whoever else can run: to sleep and be woken costs more.
fn soon<S>(jobs: &mut mpsc::Receiver<Queued<S>>) -> Option<Queued<S>> {
    let began = Instant::now();
    while began.elapsed() < SOON {
        if let Ok(job) = jobs.try_recv() {
            return Some(job);
        }
        std::thread::yield_now();
    }
    None
}

fn execute(db: &Connection, sql: &str) -> Result<()> {
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Runs what waits in one transaction and answers it; how many jobs that were.
fn batch<S: State>(db: &Connection, state: &mut S, first: Queued<S>, jobs: &mut mpsc::Receiver<Queued<S>>, counts: &Counts) -> usize {
    if let Err(error) = execute(db, "BEGIN IMMEDIATE") {
        (first.refuse)(error);
        return 0;
    }
    let began = Instant::now();
    let mut answers: Vec<Answer> = Vec::new();
    let mut lost = None;
    let mut next = Some(first);
    while let Some(queued) = next.take() {
        match one(db, state, queued.job) {
            Ok((kept, answer)) => {
                state.end_job(kept);
                answers.push(answer);
            }
            Err(error) => {
                state.end_job(false);
                (queued.refuse)(error.clone());
                // A full disk makes SQLite roll back the whole transaction by itself.
                if db.is_autocommit() {
                    lost = Some(error);
                    break;
                }
            }
        }
        if answers.len() < BATCH && began.elapsed() < BATCH_TIME {
            next = jobs.try_recv().ok();
        }
    }
    let result = match lost {
        Some(error) => Err(error),
        None => state.before_commit(db).map_err(Error::from).and_then(|()| execute(db, "COMMIT")),
    };
    if result.is_err() && !db.is_autocommit() {
        let _ = execute(db, "ROLLBACK");
    }
    state.end_batch(result.is_ok());
    counts.jobs.fetch_add(answers.len() as u64, Ordering::Relaxed);
    counts.commits.fetch_add(1, Ordering::Relaxed);
    let jobs = answers.len();
    for answer in answers {
        answer(result.clone());
    }
    jobs
}

fn one<S: State>(db: &Connection, state: &mut S, job: Job<S>) -> Result<(bool, Answer)> {
    execute(db, "SAVEPOINT job")?;
    let done = catch_unwind(AssertUnwindSafe(|| job(db, state))).unwrap_or(Err(Error::Panicked));
    if !matches!(done, Ok((true, _))) && !db.is_autocommit() {
        execute(db, "ROLLBACK TO job")?;
    }
    if !db.is_autocommit() {
        execute(db, "RELEASE job")?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (Writer<()>, JoinHandle<()>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let db = super::super::open::writer(&dir.path().join("t.db")).unwrap();
        db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT").unwrap();
        let (writer, thread) = Writer::spawn(db, ()).unwrap();
        (writer, thread, dir)
    }

    #[tokio::test]
    async fn one_failing_job_never_touches_its_neighbours() {
        let (writer, thread, dir) = open();
        let insert = |n: i64, keep: bool| {
            writer.run(move |db, ()| {
                db.execute("INSERT INTO t VALUES (?1)", [n])?;
                if n == 3 {
                    panic!("a job's own fault");
                }
                Ok(if keep { Outcome::Keep(n) } else { Outcome::Undo(n) })
            })
        };
        let (a, b, c, d, e) = tokio::join!(insert(1, true), insert(1, true), insert(2, false), insert(3, true), insert(4, true));
        assert_eq!((a.unwrap(), c.unwrap(), e.unwrap()), (1, 2, 4));
        assert!(matches!(b, Err(Error::Sqlite(_))) && matches!(d, Err(Error::Panicked)));
        drop(writer);
        thread.join().unwrap();
        let db = Connection::open(dir.path().join("t.db")).unwrap();
        let kept: Vec<i64> = db.prepare("SELECT n FROM t").unwrap().query_map([], |r| r.get(0)).unwrap().map(|n| n.unwrap()).collect();
        assert_eq!(kept, [1, 4]);
    }
}
