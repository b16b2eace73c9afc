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
        enabled: row.get::<_, Option<Micros>>("disabled_at")?.is_none(),
    })
}

/// All users, with their stores, by name.
pub fn all(db: &Connection) -> rusqlite::Result<Vec<User>> {
    let mut users = db
        .prepare_cached("SELECT no, name, role, view, disabled_at FROM users ORDER BY name")?
        .query_map([], from_row)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut query = db.prepare_cached("SELECT store FROM user_stores WHERE user = ?1 ORDER BY store")?;
    for user in &mut users {
        let stores = query.query_map([user.no], |row| Ok(StoreId::trusted(row.get::<_, String>(0)?)))?;
        user.stores = stores.collect::<rusqlite::Result<_>>()?;
    }
    Ok(users)
}

/// One user by name, in any case of letters.
pub fn find(db: &Connection, name: &str) -> rusqlite::Result<Option<User>> {
    Ok(all(db)?.into_iter().find(|user| user.name.as_str().eq_ignore_ascii_case(name)))
}

/// The password hash of an enabled user.
pub fn password(db: &Connection, name: &str) -> rusqlite::Result<Option<(i64, Option<String>)>> {
    db.prepare_cached("SELECT no, password FROM users WHERE name = ?1 AND disabled_at IS NULL")?
        .query_row([name], |row| Ok((row.get("no")?, row.get("password")?)))
        .optional()
}

/// Adds a user. The name must be free.
pub fn add(db: &Connection, name: &UserId, role: Role, stores: &[StoreId], password: Option<&str>, now: Micros) -> rusqlite::Result<i64> {
    db.prepare_cached("INSERT INTO users (name, role, password, view, created_at) VALUES (:name, :role, :password, 1, :now)")?
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

/// Sets role and stores. The user's view becomes another one, so the devices' next pulls start over.
pub fn set_role(db: &Connection, user: i64, role: Role, stores: &[StoreId], now: Micros) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET role = ?2, view = view + 1 WHERE no = ?1", (user, role.word()))?;
    db.execute("DELETE FROM user_stores WHERE user = ?1", [user])?;
    link(db, user, stores, now)?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Sets the password hash.
pub fn set_password(db: &Connection, user: i64, password: &str) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET password = ?2 WHERE no = ?1", (user, password))?;
    meta::raise(db, meta::ACCOUNTS)
}

/// Disables a user, or enables one again.
pub fn set_enabled(db: &Connection, user: i64, enabled: bool, now: Micros) -> rusqlite::Result<()> {
    db.execute("UPDATE users SET disabled_at = ?2 WHERE no = ?1", (user, (!enabled).then_some(now)))?;
    meta::raise(db, meta::ACCOUNTS)
}
