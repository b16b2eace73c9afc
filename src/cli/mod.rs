//! Layer 6: the command line, one file a command. The only place that prints, and the only one that uses `anyhow`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what the command line is for")]

mod config;
mod device;
mod doctor;
mod healthcheck;
mod init;
mod pause;
mod qr;
mod secret;
mod serve;
mod user;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::server::DATABASE;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "backroom", about = "A sync appliance for store apps", disable_help_subcommand = true, arg_required_else_help = true)]
struct Arguments {
    /// Where the database, the rules and the backups are
    #[arg(long, global = true, env = "BACKROOM_DATA_DIR", default_value = "./backroom-data", value_name = "DIR")]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance
    Serve(serve::Arguments),
    /// Write backroom.toml with the tables and rules of a kind of app
    Init(init::Arguments),
    /// Users: add, list, passwd, role, disable, enable
    User(user::Arguments),
    /// Devices: invite, list, revoke
    Device(device::Arguments),
    /// Refuse writes (503 `paused`); reads go on
    Pause,
    /// Accept writes again
    Resume,
    /// Look for what is wrong
    Doctor(doctor::Arguments),
    /// Exit 0 if a running appliance answers
    Healthcheck {
        /// Where it listens
        #[arg(long, env = "BACKROOM_LISTEN", value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// The configuration: show, check
    Config(config::Arguments),
    /// Where the files are
    Paths,
    /// The API as OpenAPI 3.1
    Openapi,
    /// The version
    Version,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // Whatever is made here is its owner's alone: 0600 files, 0700 directories.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("backroom: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let directory = arguments.data_dir.as_path();
    match arguments.command {
        Command::Serve(arguments) => serve::run(directory, arguments)?,
        Command::Init(arguments) => init::run(directory, &arguments)?,
        Command::User(arguments) => user::run(directory, arguments)?,
        Command::Device(arguments) => device::run(directory, arguments)?,
        Command::Pause => pause::run(directory, true)?,
        Command::Resume => pause::run(directory, false)?,
        Command::Doctor(arguments) => return doctor::run(directory, &arguments),
        Command::Healthcheck { listen } => healthcheck::run(directory, listen)?,
        Command::Config(arguments) => config::run(directory, &arguments)?,
        Command::Paths => {
            for (name, path) in [("data", ""), ("rules", crate::config::FILE), ("database", DATABASE), ("backups", "backups")] {
                println!("{name:<10}{}", absolute(directory).join(path).display());
            }
        }
        Command::Openapi => print!("{}", crate::http::openapi::DOCUMENT),
        Command::Version => println!("backroom {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

fn absolute(directory: &std::path::Path) -> PathBuf {
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}

/// The database, for a command beside a running appliance or without one. Only the first user's command makes a new one: a
/// mistyped directory shall not become an empty office.
fn database(directory: &std::path::Path, create: bool) -> anyhow::Result<rusqlite::Connection> {
    let path = directory.join(DATABASE);
    if !create && !path.exists() {
        anyhow::bail!("there is no database in {}; is --data-dir right?", directory.display());
    }
    crate::ops::place::prepare(directory, true)?;
    let db = crate::store::connect(&path)?;
    crate::store::meta::begin(&db, crate::store::Clock::default().now())?;
    Ok(db)
}

/// Runs in one transaction, with an entry in the audit log.
fn change<T>(
    db: &mut rusqlite::Connection,
    action: &str,
    subject: &str,
    detail: &serde_json::Value,
    work: impl FnOnce(&rusqlite::Connection, i64) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let now = crate::store::Clock::default().now();
    let transaction = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let done = work(&transaction, now)?;
    crate::store::audit::write(&transaction, now, "console", action, subject, detail)?;
    transaction.commit()?;
    Ok(done)
}
