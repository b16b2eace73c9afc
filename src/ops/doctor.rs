//! What is wrong with an appliance, looked at from outside while it runs or rests.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::domain::actor::Role;
use crate::sqlite::open;
use crate::store::users;

use super::place;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Fine.
    Ok,
    /// Should be looked at.
    Warn,
    /// Does not work.
    Bad,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// How it came out.
    pub finding: Finding,
    /// One sentence.
    pub detail: String,
}

fn check(name: &'static str, finding: Finding, detail: impl Into<String>) -> Check {
    Check { name, finding, detail: detail.into() }
}

/// Checks of the directory and its disk.
pub fn directory(directory: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    match std::fs::metadata(directory) {
        Err(e) => return vec![check("directory", Finding::Bad, format!("{} cannot be read: {e}.", directory.display()))],
        Ok(data) if data.permissions().mode() & 0o077 != 0 => {
            checks.push(check("directory", Finding::Warn, format!("{} can be entered by others; chmod 700 it.", directory.display())));
        }
        Ok(_) => checks.push(check("directory", Finding::Ok, format!("{} is its owner's alone.", directory.display()))),
    }
    checks.push(match place::network(directory) {
        Some(kind) => check("file system", Finding::Bad, format!("The data is on a network file system ({kind}).")),
        None => check("file system", Finding::Ok, "The data is on a disk of this machine."),
    });
    if let Some((free, whole)) = place::space(directory) {
        let percent = free * 100 / whole.max(1);
        let finding = match free {
            free if percent < 2 && free < 256 << 20 => Finding::Bad,
            _ if percent < 10 => Finding::Warn,
            _ => Finding::Ok,
        };
        checks.push(check("space", finding, format!("{} MB free, {percent} % of the disk.", free / 1_000_000)));
    }
    checks
}

/// Checks of the database, read-only: `quick` skips the pass over every page.
pub fn database(path: &Path, schema: usize, quick: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let db = match Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX) {
        Ok(db) => db,
        Err(_) if !path.exists() => {
            return vec![check("database", Finding::Warn, "There is no database yet; it is made by the first start.")];
        }
        Err(e) => return vec![check("database", Finding::Bad, format!("{} cannot be opened: {e}.", path.display()))],
    };
    let version: rusqlite::Result<usize> = db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map(|v| v as usize);
    checks.push(match version {
        Ok(found) if found == schema => check("schema", Finding::Ok, format!("The schema is {found}, as this program's.")),
        Ok(found) if found < schema => {
            check("schema", Finding::Warn, format!("The schema is {found}; the next start upgrades it to {schema}."))
        }
        Ok(found) => check("schema", Finding::Bad, format!("The schema is {found}, newer than this program's {schema}.")),
        Err(e) => check("schema", Finding::Bad, format!("The database cannot be read: {e}.")),
    });
    checks.push(match open::check(&db, quick) {
        Ok(result) if result == "ok" => check("integrity", Finding::Ok, "Every page of the database is in order."),
        Ok(result) => check("integrity", Finding::Bad, format!("The database is damaged: {result}. Restore a backup.")),
        Err(e) => check("integrity", Finding::Bad, format!("The database cannot be checked: {e}.")),
    });
    checks.push(match users::all(&db) {
        Ok(all) if all.iter().any(|user| user.enabled && user.role == Role::Admin) => check("admin", Finding::Ok, "There is an admin."),
        Ok(_) => check("admin", Finding::Warn, "There is no admin yet: open the set-up link, or backroom user add NAME --role admin."),
        Err(e) => check("admin", Finding::Bad, format!("The users cannot be read: {e}.")),
    });
    checks
}
