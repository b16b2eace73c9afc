//! `backroom config show|check`.

use std::path::Path;

use clap::Subcommand;

use crate::config::{Config, FILE};

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every value in force, and where it comes from
    Show,
    /// Check backroom.toml without a restart
    Check,
}

pub(super) fn run(directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let (config, origins) = Config::load(directory)?;
    let tables = config.tables();
    match arguments.command {
        Command::Show => {
            let values = toml::Table::try_from(&config)?;
            for (key, origin) in &origins {
                let value = key.split_once('.').and_then(|(section, key)| values.get(section)?.get(key));
                println!("{key:<28} {:<18} {origin}", value.map_or_else(String::new, ToString::to_string));
            }
            let origin = if values.contains_key("tables") { FILE } else { "preset store" };
            for (name, rules) in &tables {
                println!("tables.{:<21} {:<18} {origin}", name.as_str(), rules.rule.word());
            }
        }
        Command::Check => {
            let path = directory.join(FILE);
            if path.exists() {
                println!("{}: {} tables, no mistakes.", path.display(), tables.len());
            } else {
                println!("There is no {}: the preset store with {} tables is in force.", path.display(), tables.len());
            }
        }
    }
    Ok(())
}
