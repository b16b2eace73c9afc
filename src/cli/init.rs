//! `backroom init --preset NAME`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};

use crate::config::{FILE, presets};
use crate::ops::place;

/// Flags.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The kind of app: store, learning, course, teacher-hub, tracks
    #[arg(long, env = "BACKROOM_PRESET", default_value = presets::DEFAULT, value_name = "NAME")]
    preset: String,
}

pub(super) fn run(directory: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let Some(text) = presets::text(&arguments.preset) else {
        let names: Vec<&str> = presets::ALL.iter().map(|(name, _)| *name).collect();
        bail!("there is no preset {:?}; there is: {}", arguments.preset, names.join(", "));
    };
    place::prepare(directory, true)?;
    let path = directory.join(FILE);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("{} is not overwritten; move it away first", path.display()))?;
    file.write_all(text.as_bytes())?;
    println!("Wrote {}. Read it, change it, then: backroom serve", path.display());
    Ok(())
}
