//! Passwords come from a prompt, standard input or the environment, never from an argument.

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};

use crate::auth::password;

/// Reads a new password and hashes it.
pub(super) fn new_password(stdin: bool) -> anyhow::Result<String> {
    let typed = read(stdin)?;
    if let Err(sentence) = password::check(&typed) {
        bail!("{sentence}");
    }
    password::hash(&typed).context("the system gives no random numbers")
}

fn read(stdin: bool) -> anyhow::Result<String> {
    if stdin {
        let mut text = String::new();
        std::io::stdin().take(1 << 16).read_to_string(&mut text)?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Ok(path) = std::env::var("BACKROOM_PASSWORD_FILE") {
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Ok(text) = std::env::var("BACKROOM_PASSWORD") {
        return Ok(text);
    }
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask for the password; use --password-stdin");
    }
    let typed = rpassword::prompt_password("Password: ")?;
    if rpassword::prompt_password("Once more: ")? != typed {
        bail!("the two passwords differ");
    }
    Ok(typed)
}
