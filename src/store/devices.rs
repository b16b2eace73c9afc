//! Devices, invitations and what devices last said.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::domain::clock::Micros;
use crate::domain::ids::DeviceId;

use super::accounts::Seen;
use super::meta;

/// One row of `devices`.
#[derive(Debug)]
pub struct Stored {
    /// Number in the database.
    pub no: i64,
    /// The id that clients know.
    pub id: DeviceId,
    /// The user's number.
    pub user: i64,
    /// The name that people see.
    pub name: String,
    /// What it runs on.
    pub platform: String,
    /// The app's version, as it said at enrolment or in its last report.
    pub app_version: String,
    /// SHA-256 of its token.
    pub token: [u8; 32],
    /// First enrolment.
    pub created_at: Micros,
    /// It may no longer sync.
    pub revoked_at: Option<Micros>,
    /// What it last did and said, as of the last flush.
    pub seen: Seen,
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let mut seen = Seen::default();
    seen.seen_at = row.get("seen_at")?;
    seen.pushed_at = row.get("pushed_at")?;
    seen.pulled_at = row.get("pulled_at")?;
    seen.skew = row.get("skew")?;
    seen.cursor = row.get("cursor")?;
    seen.view = row.get("view")?;
    seen.pulled = row.get("pulled")?;
    seen.tables = serde_json::from_str(row.get_ref("tables")?.as_str()?).unwrap_or_default();
    seen.report = row.get("report")?;
    seen.reported_at = row.get("reported_at")?;
    let given: Option<String> = row.get("given")?;
    seen.given = given.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(Stored {
        no: row.get("no")?,
        id: DeviceId::trusted(row.get::<_, String>("id")?),
        user: row.get("user")?,
        name: row.get("name")?,
        platform: row.get("platform")?,
        app_version: row.get("app_version")?,
        token: row.get("token")?,
        created_at: row.get("created_at")?,
        revoked_at: row.get("revoked_at")?,
        seen,
    })
}

/// All devices, newest first.
pub fn all(db: &Connection) -> rusqlite::Result<Vec<Stored>> {
    db.prepare_cached("SELECT * FROM devices ORDER BY no DESC")?.query_map([], from_row)?.collect()
}

/// One device.
pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Stored>> {
    db.prepare_cached("SELECT * FROM devices WHERE id = ?1")?.query_row([id], from_row).optional()
}

/// A device that enrols or logs in.
#[derive(Debug)]
pub struct Enrolment<'a> {
    /// The id, proposed by the device or made here.
    pub id: &'a str,
    /// The user's number.
    pub user: i64,
    /// The name that people see.
    pub name: &'a str,
    /// What it runs on.
    pub platform: &'a str,
    /// The app's version.
    pub app_version: &'a str,
    /// SHA-256 of the new token.
    pub token: [u8; 32],
}

/// Adds a device, or gives a known one of the same user a new token (which also ends its revocation).
/// `false`: the id belongs to another user.
pub fn enrol(db: &Connection, device: &Enrolment<'_>, now: Micros) -> rusqlite::Result<bool> {
    let changed = db
        .prepare_cached(
            "INSERT INTO devices (id, user, name, platform, app_version, token, created_at, cursor, view, pulled, tables)
             VALUES (:id, :user, :name, :platform, :app_version, :token, :now, 0, 0, 0, '{}')
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, platform = excluded.platform,
               app_version = excluded.app_version, token = excluded.token, revoked_at = NULL
             WHERE user = excluded.user",
        )?
        .execute(named_params! {
            ":id": device.id, ":user": device.user, ":name": device.name, ":platform": device.platform,
            ":app_version": device.app_version, ":token": device.token, ":now": now,
        })?;
    meta::raise(db, meta::ACCOUNTS)?;
    Ok(changed == 1)
}

/// Gives a device another name.
pub fn rename(db: &Connection, id: &str, name: &str) -> rusqlite::Result<()> {
    db.execute("UPDATE devices SET name = ?2 WHERE id = ?1", (id, name))?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Takes a device's access away.
pub fn revoke(db: &Connection, id: &str, now: Micros) -> rusqlite::Result<()> {
    db.execute("UPDATE devices SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1", (id, now))?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Writes what a device last did and said.
pub fn write_seen(db: &Connection, no: i64, seen: &Seen) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE devices SET seen_at = :seen_at, pushed_at = :pushed_at, pulled_at = :pulled_at, skew = :skew,
           cursor = :cursor, view = :view, pulled = :pulled, tables = :tables, report = :report,
           reported_at = :reported_at, given = :given WHERE no = :no",
    )?
    .execute(named_params! {
        ":no": no, ":seen_at": seen.seen_at, ":pushed_at": seen.pushed_at, ":pulled_at": seen.pulled_at, ":skew": seen.skew,
        ":cursor": seen.cursor, ":view": seen.view, ":pulled": seen.pulled, ":tables": serde_json::to_string(&seen.tables).unwrap_or_default(),
        ":report": seen.report, ":reported_at": seen.reported_at, ":given": serde_json::to_string(&seen.given).unwrap_or_default(),
    })?;
    Ok(())
}

/// Stores an invitation by the hash of its code.
pub fn invite(db: &Connection, code: &[u8; 32], user: i64, by: &str, now: Micros, expires_at: Micros) -> rusqlite::Result<()> {
    db.execute("DELETE FROM invitations WHERE expires_at < ?1", [now - crate::domain::clock::DAY])?;
    db.execute(
        "INSERT INTO invitations (code, user, invited_by, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (code, user, by, now, expires_at),
    )?;
    Ok(())
}

/// Uses an invitation up; the user that it was for. `None`: unknown, used or expired.
pub fn accept(db: &Connection, code: &[u8; 32], now: Micros) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("UPDATE invitations SET used_at = ?2 WHERE code = ?1 AND used_at IS NULL AND expires_at > ?2 RETURNING user")?
        .query_row((code, now), |row| row.get(0))
        .optional()
}
