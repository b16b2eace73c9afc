//! `backroom doctor`.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;
use crate::ops::doctor::{self, Check, Finding};
use crate::server::DATABASE;
use crate::store::MIGRATIONS;

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Skip the pass over every page of the database
    #[arg(long)]
    quick: bool,
}

pub(super) fn run(directory: &Path, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut checks = doctor::directory(directory);
    checks.push(match Config::load(directory) {
        Ok((config, _)) => {
            let detail = format!("{} tables, no mistakes.", config.tables().len());
            Check { name: "rules", finding: Finding::Ok, detail }
        }
        Err(e) => Check { name: "rules", finding: Finding::Bad, detail: e.to_string() },
    });
    if directory.is_dir() {
        checks.extend(doctor::database(&directory.join(DATABASE), MIGRATIONS.len(), arguments.quick));
    }
    let bad = checks.iter().any(|check| check.finding == Finding::Bad);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "ok": !bad, "checks": checks }))?);
    } else {
        for check in &checks {
            let word = match check.finding {
                Finding::Ok => "ok",
                Finding::Warn => "look",
                Finding::Bad => "BAD",
            };
            println!("{word:<5} {:<12} {}", check.name, check.detail);
        }
    }
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
