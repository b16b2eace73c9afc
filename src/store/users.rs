//! Users and their stores.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::domain::actor::Role;
use crate::domain::clock::Micros;
use crate::domain::ids::{StoreId, UserId};

use super::accounts::User;
use super::meta;

fn from_row(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        no: row.get("no")?,
        name: UserId::trusted(row.get::<_, String>("name")?),
        role: Role::parse(&row.get::<_, String>("role")?).unwrap_or(Role::Store),
        stores: Vec::new(),
        view: row.get("view")?,
        access: row.get("access")?,
        enabled: row.get::<_, Option<Micros>>("disabled_at")?.is_none(),
    })
}

/// All users, with their stores, by name.
pub fn all(db: &Connection) -> rusqlite::Result<Vec<User>> {
    let mut users = db
        .prepare_cached("SELECT no, name, role, view, access, disabled_at FROM users ORDER BY name")?
        .query_map([], from_row)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for user in &mut users {
        user.stores = stores(db, user.no)?;
    }
    Ok(users)
}

fn stores(db: &Connection, user: i64) -> rusqlite::Result<Vec<StoreId>> {
    db.prepare_cached("SELECT store FROM user_stores WHERE user = ?1 ORDER BY store")?
        .query_map([user], |row| Ok(StoreId::trusted(row.get::<_, String>(0)?)))?
        .collect()
}

/// One user by name, in any case of letters.
pub fn find(db: &Connection, name: &str) -> rusqlite::Result<Option<User>> {
    Ok(with_password(db, name)?.map(|(user, _)| user))
}

/// The same, with the password's hash.
pub fn with_password(db: &Connection, name: &str) -> rusqlite::Result<Option<(User, Option<String>)>> {
    let found = db
        .prepare_cached("SELECT no, name, role, view, access, disabled_at, password FROM users WHERE name = ?1")?
        .query_row([name], |row| Ok((from_row(row)?, row.get("password")?)))
        .optional()?;
    let Some((mut user, password)) = found else { return Ok(None) };
    user.stores = stores(db, user.no)?;
    Ok(Some((user, password)))
}

/// Adds a user. The name must be free.
pub fn add(db: &Connection, name: &UserId, role: Role, stores: &[StoreId], password: Option<&str>, now: Micros) -> rusqlite::Result<i64> {
    db.prepare_cached("INSERT INTO users (name, role, password, view, access, created_at) VALUES (:name, :role, :password, 1, 1, :now)")?
        .execute(named_params! { ":name": name.as_str(), ":role": role.word(), ":password": password, ":now": now })?;
    let user = db.last_insert_rowid();
    link(db, user, stores, now)?;
    meta::raise(db, meta::ACCOUNTS)?;
    Ok(user)
}

fn link(db: &Connection, user: i64, stores: &[StoreId], now: Micros) -> rusqlite::Result<()> {
    for store in stores {
        db.prepare_cached("INSERT INTO stores (id, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?.execute((store.as_str(), now))?;
        db.prepare_cached("INSERT INTO user_stores (user, store) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute((user, store.as_str()))?;
    }
    Ok(())
}

/// Sets role and stores. The user's view becomes another one, so the devices' next pulls start over. Ends the user's sessions.
pub fn set_role(db: &Connection, user: i64, role: Role, stores: &[StoreId], now: Micros) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET role = ?2, view = view + 1, access = access + 1 WHERE no = ?1", (user, role.word()))?;
    db.execute("DELETE FROM user_stores WHERE user = ?1", [user])?;
    link(db, user, stores, now)?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Sets the hash of another password. Ends the user's sessions.
pub fn set_password(db: &Connection, user: i64, password: &str) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET password = ?2, access = access + 1 WHERE no = ?1", (user, password))?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Puts a stronger hash of the same password in the place of `old`, unless there is another password meanwhile.
pub fn renew_hash(db: &Connection, user: i64, old: &str, new: &str) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET password = ?3 WHERE no = ?1 AND password = ?2", (user, old, new))?;
    Ok(())
}

/// Disables a user, or enables one again. Ends the user's sessions: they do not come back with the access.
pub fn set_enabled(db: &Connection, user: i64, enabled: bool, now: Micros) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET disabled_at = ?2, access = access + 1 WHERE no = ?1", (user, (!enabled).then_some(now)))?;
    meta::raise(db, meta::ACCOUNTS)
}
