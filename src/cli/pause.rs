//! `backroom pause` and `backroom resume`.

use std::path::Path;

use serde_json::json;

use crate::store::meta;

use super::{change, database};

pub(super) fn run(directory: &Path, pause: bool) -> anyhow::Result<()> {
    let mut db = database(directory, false)?;
    change(&mut db, if pause { "pause" } else { "resume" }, "database", &json!({}), |db, _| {
        meta::write(db, meta::PAUSED, i64::from(pause))?;
        Ok(meta::raise(db, meta::ACCOUNTS)?)
    })?;
    println!("{}", if pause { "Writes are paused. Reads go on." } else { "Writes are accepted again." });
    Ok(())
}
