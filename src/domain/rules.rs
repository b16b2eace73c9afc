//! A table's rules as the configuration states them.

use serde::{Deserialize, Serialize};

use super::actor::Role;

/// Who wins where two people changed the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The side whose author ranks higher; equal ranks fall through to `latest_wins`.
    ManagerWins,
    /// The later corrected `updated_at`; equal times fall through to `server_wins`.
    LatestWins,
    /// The server's record.
    #[default]
    ServerWins,
    /// The change.
    ClientWins,
    /// Nobody yet: the conflict waits in the inbox.
    Manual,
}

impl Rule {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Rule::ManagerWins => "manager_wins",
            Rule::LatestWins => "latest_wins",
            Rule::ServerWins => "server_wins",
            Rule::ClientWins => "client_wins",
            Rule::Manual => "manual",
        }
    }
}

/// Who shares a record of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everyone who may read the table.
    #[default]
    Office,
    /// Devices of the record's store, and managers.
    Store,
    /// Devices of the record's user, and managers.
    User,
}

/// How finely two edits are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Field by field. Until field merges arrive it behaves as `Record`, and the server says so.
    #[default]
    Field,
    /// The whole record is one thing.
    Record,
}

fn store_role() -> Role {
    Role::Store
}

/// One `[tables.NAME]` of `backroom.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRules {
    /// Who wins a conflict.
    #[serde(default)]
    pub rule: Rule,
    /// Who shares a record.
    #[serde(default)]
    pub scope: Scope,
    /// The field that holds the scope's value; `store_id` or `user_id` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_field: Option<String>,
    /// How finely edits are compared.
    #[serde(default)]
    pub granularity: Granularity,
    /// Least role that may read the table.
    #[serde(default = "store_role")]
    pub read: Role,
    /// Least role that may write it, or `service`: programs alone.
    #[serde(default = "store_role")]
    pub write: Role,
    /// Fields that every record must have, not null.
    #[serde(default)]
    pub required: Vec<String>,
    /// Records are created and never changed.
    #[serde(default)]
    pub append_only: bool,
    /// Fields whose values together occur once within a feed.
    #[serde(default)]
    pub unique: Vec<String>,
}

impl Default for TableRules {
    fn default() -> Self {
        TableRules {
            rule: Rule::default(),
            scope: Scope::default(),
            scope_field: None,
            granularity: Granularity::default(),
            read: Role::Store,
            write: Role::Store,
            required: Vec::new(),
            append_only: false,
            unique: Vec::new(),
        }
    }
}

impl TableRules {
    /// The field that holds the scope's value; `None` for office tables.
    pub fn scope_field(&self) -> Option<&str> {
        let default = match self.scope {
            Scope::Office => return None,
            Scope::Store => "store_id",
            Scope::User => "user_id",
        };
        Some(self.scope_field.as_deref().unwrap_or(default))
    }

    /// What is wrong with these rules, in one sentence, or nothing.
    pub fn check(&self) -> Result<(), String> {
        const PROTOCOL: [&str; 4] = ["id", "version", "updated_at", "deleted"];
        let named = self.required.iter().chain(&self.unique).chain(&self.scope_field);
        for field in named {
            if field.is_empty() || field.len() > 128 {
                return Err(format!("the field name {field:?} is empty or longer than 128 characters"));
            }
            if PROTOCOL.contains(&field.as_str()) {
                return Err(format!("{field:?} belongs to the protocol and cannot be named here"));
            }
        }
        if self.scope == Scope::Office && self.scope_field.is_some() {
            return Err("scope_field needs scope = \"store\" or \"user\"".into());
        }
        Ok(())
    }
}

/// The rules of a whole office: what `backroom.toml` says of its tables.
pub type Tables = std::collections::BTreeMap<super::ids::TableName, TableRules>;
