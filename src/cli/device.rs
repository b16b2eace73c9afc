//! `backroom device invite|list|revoke`.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;

use crate::auth::token;
use crate::domain::clock;
use crate::store::{devices, users};
use crate::sync::accounts::INVITATION;

use super::{change, database, qr};

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A one-time code for a new device of a user
    Invite {
        /// Whose device it will be
        #[arg(long)]
        user: String,
        /// The appliance's address as the device sees it, for the link and its QR code
        #[arg(long, env = "BACKROOM_URL", default_value = "http://127.0.0.1:8484", value_name = "URL")]
        url: String,
        /// Only the code
        #[arg(long)]
        quiet: bool,
    },
    /// List the devices
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a device's access away
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) fn run(directory: &Path, arguments: Arguments) -> anyhow::Result<()> {
    let mut db = database(directory, false)?;
    match arguments.command {
        Command::Invite { user, url, quiet } => {
            let user = users::find(&db, &user)?.with_context(|| format!("there is no user {user:?}"))?;
            if !user.enabled {
                bail!("{} is disabled", user.name);
            }
            let code = token::code().context("the system gives no random numbers")?;
            let hash = token::hash(&token::normal_code(&code));
            let expires = change(&mut db, "invite", user.name.as_str(), &json!({}), |db, now| {
                devices::invite(db, &hash, user.no, "console", now, now + INVITATION)?;
                Ok(now + INVITATION)
            })?;
            if quiet {
                println!("{code}");
                return Ok(());
            }
            let link = format!("{}/join#{code}", url.trim_end_matches('/'));
            println!("A device of {} ({}) may join once, until {}:\n", user.name, user.role.word(), clock::text(expires));
            println!("  code  {code}\n  link  {link}\n\n{}", qr::draw(&link)?);
        }
        Command::List { json: as_json } => list(&db, as_json)?,
        Command::Revoke { id } => {
            let device = devices::find(&db, &id)?.with_context(|| format!("there is no device {id:?}"))?;
            change(&mut db, "revoke", &id, &json!({}), |db, now| Ok(devices::revoke(db, device.id.as_str(), now)?))?;
            println!("{} may no longer sync.", device.name);
        }
    }
    Ok(())
}

fn list(db: &rusqlite::Connection, as_json: bool) -> anyhow::Result<()> {
    let owners: std::collections::HashMap<i64, String> = users::all(db)?.into_iter().map(|user| (user.no, user.name.to_string())).collect();
    let all = devices::all(db)?;
    let owner = |device: &devices::Stored| owners.get(&device.user).cloned().unwrap_or_default();
    if as_json {
        let rows: Vec<_> = all
            .iter()
            .map(|device| {
                json!({
                    "device_id": device.id, "name": device.name, "user": owner(device), "platform": device.platform,
                    "enrolled_at": clock::text(device.created_at), "revoked_at": device.revoked_at.map(clock::text),
                    "last_seen": device.seen.seen_at.map(clock::text),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for device in &all {
        let state = if device.revoked_at.is_some() { "revoked" } else { "active" };
        let seen = device.seen.seen_at.map_or_else(|| "never synced".into(), |at| format!("seen {}", clock::text(at)));
        println!("{:<38} {:<24} {:<16} {state:<8} {seen}", device.id.as_str(), device.name, owner(device));
    }
    Ok(())
}
