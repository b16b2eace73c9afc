//! One Config: flag > environment > `backroom.toml` > default. Values are passed down, not the Config.

pub mod presets;
pub mod secret;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::domain::ids::TableName;
use crate::domain::limits;
use crate::domain::rules::{Function, Rule, Schema, TableRules, Tables};
use crate::domain::schema;
use crate::script::Script;

use secret::Secret;

/// The rules' file in the data directory.
pub const FILE: &str = "backroom.toml";

/// Names a file that holds the token of `/metrics`.
const METRICS_TOKEN_FILE: &str = "BACKROOM_METRICS_TOKEN_FILE";

/// What is wrong with the configuration, for the person who wrote it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address and port.
    pub listen: SocketAddr,
    /// Host names that requests may name.
    pub hosts: Vec<String>,
    /// Connections at once.
    pub connections: usize,
    /// Reader connections to the database.
    pub readers: usize,
}

impl Default for Server {
    fn default() -> Self {
        Server { listen: SocketAddr::from(([0, 0, 0, 0], 8484)), hosts: Vec::new(), connections: 2048, readers: 3 }
    }
}

/// `[live]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Live {
    /// Live connections at once.
    pub sockets: usize,
    /// Live connections of one device.
    pub device_sockets: usize,
    /// Seconds between two pings.
    pub ping_seconds: u64,
    /// Seconds without any sign of life after which a connection is closed.
    pub idle_seconds: u64,
}

impl Default for Live {
    fn default() -> Self {
        Live { sockets: 2048, device_sockets: limits::DEVICE_SOCKETS, ping_seconds: 30, idle_seconds: 75 }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a decoded body.
    pub body_bytes: usize,
    /// Changes in a push.
    pub push_changes: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
    /// Records in a page.
    pub page_records: usize,
    /// Sync requests a second, for each device.
    pub requests_per_second: u32,
    /// How many it may make at once.
    pub requests_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: limits::BODY_BYTES,
            push_changes: limits::PUSH_CHANGES,
            record_bytes: limits::RECORD_BYTES,
            page_records: limits::PAGE_RECORDS,
            requests_per_second: 5_000,
            requests_burst: 20_000,
        }
    }
}

/// `[retention]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Days that history, receipts, closed conflicts and rejections are kept.
    pub days: i64,
    /// Days after which tombstones go in any case.
    pub max_days: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { days: 90, max_days: 365 }
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// error, warn, info, debug or trace.
    pub level: String,
    /// plain or json.
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), format: "plain".into() }
    }
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Opens `/metrics`; empty: there is none.
    pub token: Secret,
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[live]`.
    pub live: Live,
    /// `[limits]`.
    pub limits: Limits,
    /// `[retention]`.
    pub retention: Retention,
    /// `[log]`.
    pub log: Log,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[tables.*]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tables: BTreeMap<String, TableRules>,
}

/// Where each value came from: `default`, `backroom.toml` or the variable's name.
pub type Origins = BTreeMap<String, String>;

impl Config {
    /// Reads a file's text. The error names line and column.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let config: Config = toml::from_str(text).map_err(|e| Error(format!("{FILE}: {}", secret::described(text, &e))))?;
        config.check().map_err(|sentence| Error(format!("{FILE}: {sentence}{}", place(text, &sentence))))?;
        Ok(config)
    }

    /// Reads the file in a data directory (defaults where there is none), then the environment.
    pub fn load(directory: &Path) -> Result<(Config, Origins), Error> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error(format!("{} cannot be read: {e}", path.display()))),
        };
        Config::parse(&text)?;
        let mut value: toml::Table = toml::from_str(&text).map_err(|e| Error(e.to_string()))?;
        let mut origins = Origins::new();
        let defaults = toml::Table::try_from(Config::default()).map_err(|e| Error(e.to_string()))?;
        for (section, keys) in &defaults {
            for (key, default) in keys.as_table().into_iter().flatten() {
                let variable = variable(section, key);
                let place = value.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                let Some(place) = place.as_table_mut() else { continue };
                let origin = match std::env::var(&variable) {
                    Ok(given) => {
                        place.insert(
                            key.clone(),
                            typed(default, &given).ok_or_else(|| Error(format!("{variable}={given:?} is not of the right kind")))?,
                        );
                        variable
                    }
                    Err(_) if place.contains_key(key) => FILE.into(),
                    Err(_) => "default".into(),
                };
                origins.insert(format!("{section}.{key}"), origin);
            }
        }
        if let Some(token) = secret::from_file(METRICS_TOKEN_FILE)? {
            let section = value.entry("metrics").or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let Some(section) = section.as_table_mut() {
                section.insert("token".into(), token.into());
            }
            origins.insert("metrics.token".into(), METRICS_TOKEN_FILE.into());
        }
        let mut config: Config = value.try_into().map_err(|e: toml::de::Error| Error(format!("environment: {}", e.message())))?;
        config.read_files(directory)?;
        config.check().map_err(Error)?;
        Ok((config, origins))
    }

    /// The tables: those of the file, or the `store` preset's where it names none.
    pub fn tables(&self) -> Tables {
        let named = self.tables.iter().map(|(name, rules)| (TableName::trusted(name.as_str()), rules.clone()));
        if self.tables.is_empty() { presets::tables(presets::DEFAULT) } else { named.collect() }
    }

    /// Puts scripts and schemas that stand in files of their own into the rules.
    fn read_files(&mut self, directory: &Path) -> Result<(), Error> {
        for (name, rules) in &mut self.tables {
            let read = |file: &str, most: usize| {
                let plain = !file.is_empty() && Path::new(file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
                let path = directory.join(file);
                let text = match plain {
                    true => std::fs::read_to_string(&path).map_err(|e| e.to_string()),
                    false => Err("it is not in the data directory".into()),
                };
                let text = text.and_then(|text| if text.len() > most { Err(format!("it is larger than {most} bytes")) } else { Ok(text) });
                text.map_err(|e| Error(format!("[tables.{name}]: the file {file:?} cannot be read: {e}")))
            };
            if let Some(file) = rules.script.as_deref().filter(|text| is_file(text)) {
                rules.script = Some(read(file, limits::SCRIPT_BYTES)?);
            }
            if let Some(Schema::File(file)) = &rules.schema {
                let text = read(file, limits::SCHEMA_BYTES)?;
                let schema = serde_json::from_str(&text);
                rules.schema = Some(Schema::Inline(schema.map_err(|e| Error(format!("[tables.{name}]: {file}: {e}")))?));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        for (name, rules) in &self.tables {
            TableName::parse(name).map_err(|e| format!("[tables.{name}]: {e}"))?;
            rules.check().and_then(|()| programs(rules)).map_err(|sentence| format!("[tables.{name}]: {sentence}"))?;
        }
        let most = Limits::default();
        let bounded = [
            ("limits.body_bytes", self.limits.body_bytes, 1_024, most.body_bytes),
            ("limits.push_changes", self.limits.push_changes, 1, most.push_changes),
            ("limits.record_bytes", self.limits.record_bytes, 64, most.record_bytes),
            ("limits.page_records", self.limits.page_records, 1, most.page_records),
            ("server.connections", self.server.connections, 8, 65_536),
            ("server.readers", self.server.readers, 1, 64),
            ("live.sockets", self.live.sockets, 1, 65_536),
            ("live.device_sockets", self.live.device_sockets, 1, limits::DEVICE_SOCKETS),
            ("live.ping_seconds", self.live.ping_seconds as usize, 1, 3_600),
            ("live.idle_seconds", self.live.idle_seconds as usize, 2, 86_400),
        ];
        for (key, value, least, most) in bounded {
            if !(least..=most).contains(&value) {
                return Err(format!("{key} is a number from {least} to {most}"));
            }
        }
        if self.live.idle_seconds <= self.live.ping_seconds {
            return Err("live.idle_seconds is more than live.ping_seconds".into());
        }
        if self.limits.requests_per_second == 0 || self.limits.requests_burst == 0 {
            return Err("limits.requests_per_second and limits.requests_burst are at least 1".into());
        }
        if !(1..=36_500).contains(&self.retention.days) || self.retention.max_days < self.retention.days || self.retention.max_days > 36_500
        {
            return Err("retention.days is from 1 to 36500, retention.max_days no less than it".into());
        }
        if !self.metrics.token.text().bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("metrics.token is of visible ASCII characters, without spaces".into());
        }
        if !["error", "warn", "info", "debug", "trace"].contains(&self.log.level.as_str()) {
            return Err("log.level is error, warn, info, debug or trace".into());
        }
        if !["plain", "json"].contains(&self.log.format.as_str()) {
            return Err("log.format is plain or json".into());
        }
        Ok(())
    }
}

/// Is a table's `script` the name of a file?
fn is_file(script: &str) -> bool {
    script.ends_with(".rhai") && !script.contains('\n')
}

/// What is wrong with a table's script and schema, as far as they are here.
fn programs(rules: &TableRules) -> Result<(), String> {
    if let Some(source) = rules.script.as_deref().filter(|text| !is_file(text)) {
        let script = Script::compile(source).map_err(|e| format!("script: {e}"))?;
        if rules.rule == Rule::Script && !script.resolves() {
            return Err("rule = \"script\" needs a script with a function resolve".into());
        }
        if let Some((path, _)) = rules.merge.iter().find(|(_, function)| **function == Function::Derived && !script.derives()) {
            return Err(format!("merge: {path:?} is derived, and the script has no function derive"));
        }
    }
    if let Some(Schema::Inline(schema)) = &rules.schema {
        schema::Schema::compile(&serde_json::Value::Object(schema.clone())).map_err(|e| format!("schema: {e}"))?;
    }
    Ok(())
}

/// The environment's name of a key: `BACKROOM_LIMITS_BODY_BYTES`. `server.listen` has that of its flag.
fn variable(section: &str, key: &str) -> String {
    match (section, key) {
        ("server", "listen") => "BACKROOM_LISTEN".into(),
        _ => format!("BACKROOM_{}_{}", section.to_uppercase(), key.to_uppercase()),
    }
}

/// ` (line N, column 1)` of the table or key that a sentence is about.
fn place(text: &str, sentence: &str) -> String {
    let header = sentence.split(']').next().unwrap_or_default();
    let key = sentence.split([' ', ']']).next().unwrap_or_default().rsplit('.').next().unwrap_or_default();
    let found = text.lines().position(|line| {
        let line = line.trim_start();
        if header.starts_with('[') { line.starts_with(header) } else { line.split('=').next().is_some_and(|name| name.trim() == key) }
    });
    found.map_or(String::new(), |line| format!(" (line {}, column 1)", line + 1))
}

/// A variable's text as a value of the default's kind.
fn typed(default: &toml::Value, given: &str) -> Option<toml::Value> {
    Some(match default {
        toml::Value::Integer(_) => toml::Value::Integer(given.parse().ok()?),
        toml::Value::Boolean(_) => toml::Value::Boolean(given.parse().ok()?),
        toml::Value::Array(_) => {
            let parts = given.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| toml::Value::String(part.into())).collect())
        }
        _ => toml::Value::String(given.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_file_is_the_default() {
        assert_eq!(Config::parse(include_str!("../../packaging/config.toml")).unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (text, wanted) in [
            ("[tables.forms]\nrule = \"manger_wins\"\n", vec!["line 2, column 8", "manger_wins"]),
            ("[tables.Forms]\n", vec!["Forms", "line 1"]),
            ("x = 1\n", vec!["line 1, column 1", "unknown field"]),
            ("[tables.a]\n\n[tables.b]\nrequired = [\"id\"]\n", vec!["tables.b", "belongs to the protocol", "line 3"]),
            ("[limits]\nbody_bytes = 99999999999\n", vec!["limits.body_bytes", "line 2"]),
            ("[retention]\ndays = 0\n", vec!["retention.days"]),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(wanted.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
