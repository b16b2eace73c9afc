//! Values that are never shown: neither by `config show`, nor in the log, nor in what is said of a mistake.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use super::Error;

/// Bytes of a file that holds one.
const FILE_BYTES: u64 = 4 << 10;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text; empty: there is none.
    pub fn text(&self) -> &str {
        &self.0
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "(not shown)" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

/// The first line of the file that a variable names, if it is set.
pub(super) fn from_file(variable: &str) -> Result<Option<String>, Error> {
    use std::io::Read;
    let Some(path) = std::env::var(variable).ok().filter(|path| !path.is_empty()) else { return Ok(None) };
    let mut text = String::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text));
    read.map_err(|e| Error(format!("{variable}: {path} cannot be read: {e}")))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(Some(secret.to_owned())),
        _ => Err(Error(format!("{variable}: {path} is empty"))),
    }
}

/// A mistake in a file, with its line: without it where that line sets a secret.
pub(super) fn described(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..start).unwrap_or(text);
    let (line, from) = (before.matches('\n').count(), before.rfind('\n').map_or(0, |at| at + 1));
    let own = text.get(from..).unwrap_or_default();
    if own.trim_start().starts_with("token") {
        return format!("line {}: token cannot be read. It is a text in quotes, and stands once", line + 1);
    }
    error.to_string().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_secret_is_never_shown() {
        let config = Config::parse("[metrics]\ntoken = \"s3cret\"\n").unwrap();
        assert_eq!(config.metrics.token.text(), "s3cret");
        let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
        assert!(!shown.contains("s3cret") && shown.contains("(not shown)"), "{shown}");
        for text in [
            "[metrics]\ntoken = s3cret\n",
            "[metrics]\ntoken = \"s3cret\n",
            "[metrics]\ntoken = [\"s3cret\"]\n",
            "[metrics]\n  token=\"s3cret\" x\n",
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("line 2"), "{text}: {error}");
        }
    }
}
