//! `backroom user add|list|passwd|role|disable|enable`.

use std::path::Path;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::domain::actor::Role;
use crate::domain::ids::{StoreId, UserId};
use crate::store::accounts::User;
use crate::store::users;

use super::{change, database, secret};

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Word {
    Admin,
    Manager,
    Service,
    Store,
}

impl From<Word> for Role {
    fn from(word: Word) -> Role {
        match word {
            Word::Admin => Role::Admin,
            Word::Manager => Role::Manager,
            Word::Service => Role::Service,
            Word::Store => Role::Store,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user
    Add {
        /// The name, which is also the value of user scopes
        name: String,
        /// What the user may do
        #[arg(long)]
        role: Word,
        /// A store of the user; repeat it for several
        #[arg(long = "store", value_name = "S")]
        stores: Vec<String>,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
        /// Without a password: the user's devices come by invitation
        #[arg(long, conflicts_with = "password_stdin")]
        no_password: bool,
    },
    /// List the users
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a password
    Passwd {
        /// The user
        name: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Set role and stores
    Role {
        /// The user
        name: String,
        /// What the user may do
        #[arg(long)]
        role: Word,
        /// A store of the user; repeat it for several
        #[arg(long = "store", value_name = "S")]
        stores: Vec<String>,
    },
    /// Take a user's access away
    Disable {
        /// The user
        name: String,
    },
    /// Give a user's access back
    Enable {
        /// The user
        name: String,
    },
}

fn stores(names: &[String], role: Role) -> anyhow::Result<Vec<StoreId>> {
    if role != Role::Store && !names.is_empty() {
        bail!("a {} sees all stores; --store is for the role store", role.word());
    }
    names.iter().map(|name| StoreId::parse(name).map_err(|e| anyhow::anyhow!("{name:?}: {e}"))).collect()
}

fn find(db: &rusqlite::Connection, name: &str) -> anyhow::Result<User> {
    users::find(db, name)?.with_context(|| format!("there is no user {name:?}"))
}

/// Nobody shall lock themselves out: the last admin stays one.
fn keep_an_admin(db: &rusqlite::Connection, but: &User) -> anyhow::Result<()> {
    let other = |user: &User| user.no != but.no && user.enabled && user.role == Role::Admin;
    if but.role == Role::Admin && !users::all(db)?.iter().any(other) {
        bail!("{} is the only admin; make another one first", but.name);
    }
    Ok(())
}

pub(super) fn run(directory: &Path, arguments: Arguments) -> anyhow::Result<()> {
    let mut db = database(directory, matches!(arguments.command, Command::Add { .. }))?;
    match arguments.command {
        Command::Add { name, role, stores: names, password_stdin, no_password } => {
            let name = UserId::parse(&name)?;
            let (role, stores) = (Role::from(role), stores(&names, role.into())?);
            if role == Role::Store && stores.is_empty() {
                eprintln!("note: {name} belongs to no store yet; backroom user role {name} --role store --store S");
            }
            if users::find(&db, name.as_str())?.is_some() {
                bail!("there is a user {name} already");
            }
            let password = if no_password { None } else { Some(secret::new_password(password_stdin)?) };
            change(&mut db, "user_add", name.as_str(), &json!({ "role": role, "stores": stores }), |db, now| {
                Ok(users::add(db, &name, role, &stores, password.as_deref(), now)?)
            })?;
            let _ = std::fs::remove_file(directory.join(crate::sync::SETUP_LINK));
            println!("Added {name}, {}.", role.word());
        }
        Command::List { json: as_json } => list(&db, as_json)?,
        Command::Passwd { name, password_stdin } => {
            let user = find(&db, &name)?;
            let password = secret::new_password(password_stdin)?;
            change(&mut db, "user_passwd", user.name.as_str(), &json!({}), |db, _| Ok(users::set_password(db, user.no, &password)?))?;
            println!("{} has a new password; browsers are signed out.", user.name);
        }
        Command::Role { name, role, stores: names } => {
            let (user, role, stores) = (find(&db, &name)?, Role::from(role), stores(&names, role.into())?);
            if role != Role::Admin {
                keep_an_admin(&db, &user)?;
            }
            change(&mut db, "user_role", user.name.as_str(), &json!({ "role": role, "stores": stores }), |db, now| {
                Ok(users::set_role(db, user.no, role, &stores, now)?)
            })?;
            println!("{} is {} now.", user.name, role.word());
        }
        Command::Disable { name } => {
            let user = find(&db, &name)?;
            keep_an_admin(&db, &user)?;
            change(&mut db, "user_disable", user.name.as_str(), &json!({}), |db, now| Ok(users::set_enabled(db, user.no, false, now)?))?;
            println!("{} and the user's devices have no access any more.", user.name);
        }
        Command::Enable { name } => {
            let user = find(&db, &name)?;
            change(&mut db, "user_enable", user.name.as_str(), &json!({}), |db, now| Ok(users::set_enabled(db, user.no, true, now)?))?;
            println!("{} has access again.", user.name);
        }
    }
    Ok(())
}

fn list(db: &rusqlite::Connection, as_json: bool) -> anyhow::Result<()> {
    let all = users::all(db)?;
    if as_json {
        let rows: Vec<_> = all
            .iter()
            .map(|user| json!({ "name": user.name, "role": user.role, "stores": user.stores, "enabled": user.enabled }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for user in all {
        let stores: Vec<&str> = user.stores.iter().map(StoreId::as_str).collect();
        let state = if user.enabled { "" } else { "  disabled" };
        println!("{:<20} {:<8} {}{state}", user.name.as_str(), user.role.word(), stores.join(", "));
    }
    Ok(())
}
