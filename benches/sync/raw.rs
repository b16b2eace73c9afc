//! Raw SQLite on the same machine: what nobody who uses it can beat.

use std::path::Path;
use std::time::Instant;

use backroom::sqlite::open;

use crate::load::{Ids, record};

/// What raw inserts reached.
pub struct Raw {
    pub records_per_second: f64,
}

/// Inserts the load's records into one indexed table, with the server's pragmas and a cached statement.
pub fn inserts(ids: Ids, records: usize, per_commit: usize) -> Raw {
    let directory = tempfile::tempdir_in(Path::new(crate::server::BINARY).parent().unwrap_or(Path::new("."))).expect("a directory");
    let db = open::writer(&directory.path().join("raw.db")).expect("a database");
    db.execute_batch(
        "CREATE TABLE records (id TEXT PRIMARY KEY, store TEXT NOT NULL, updated_at INTEGER NOT NULL, data TEXT NOT NULL) STRICT",
    )
    .expect("a table");
    let made: Vec<(String, String)> = (0..records).map(|no| (ids.next(), record(no))).collect();
    let began = Instant::now();
    for batch in made.chunks(per_commit) {
        db.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).expect("a transaction");
        let mut insert =
            db.prepare_cached("INSERT INTO records (id, store, updated_at, data) VALUES (?1, ?2, ?3, ?4)").expect("a statement");
        for (id, data) in batch {
            insert.execute((id, "S", 1_763_632_800_000_000i64, data)).expect("an insert");
        }
        drop(insert);
        db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).expect("a commit");
    }
    Raw { records_per_second: records as f64 / began.elapsed().as_secs_f64() }
}

/// Reads a server's records as it stores them: records a second.
pub fn selects(database: &Path, records: usize) -> f64 {
    let db = open::reader(database).expect("a database");
    let mut rates = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let mut select =
            db.prepare_cached("SELECT id, version, updated_at, data FROM changes WHERE next IS NULL ORDER BY seq").expect("a statement");
        let mut rows = select.query([]).expect("rows");
        let (mut count, mut bytes) = (0, Vec::new());
        while let Some(row) = rows.next().expect("a row") {
            bytes.extend_from_slice(row.get_ref(0).expect("id").as_bytes().expect("text"));
            let (version, time): (i64, i64) = (row.get(1).expect("version"), row.get(2).expect("time"));
            bytes.extend_from_slice(&(version + time).to_le_bytes());
            bytes.extend_from_slice(row.get_ref(3).expect("data").as_bytes().expect("text"));
            count += 1;
        }
        assert_eq!(count, records);
        std::hint::black_box(bytes);
        rates.push(records as f64 / began.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
