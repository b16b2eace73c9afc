//! A table's rules as the configuration states them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::actor::Role;
use super::path;

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
    /// The table's script says.
    Script,
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
            Rule::Script => "script",
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
    /// Field by field, nested objects by path.
    #[default]
    Field,
    /// The whole record is one thing.
    Record,
}

/// How two changes of one field are brought together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FunctionText", into = "FunctionText")]
pub enum Function {
    /// The greater.
    Max,
    /// The lesser.
    Min,
    /// The server's number moved by what the change added to its base.
    Sum,
    /// Arrays as sets. `by`: objects are matched by this member and merged as records.
    Union {
        /// The member that tells which objects are the same one.
        by: Option<String>,
    },
    /// The server's list, then what the change added behind its base.
    Append,
    /// Texts line by line.
    Text,
    /// A rule for this field alone.
    Rule(Rule),
    /// The table's script sets it; what a device sends in it is not compared.
    Derived,
}

impl Function {
    /// Its result depends on how far the change moved the value, so it is never computed on an unknown base.
    pub fn is_delta(&self) -> bool {
        matches!(self, Function::Sum | Function::Append)
    }

    const WORDS: [(&str, Function); 12] = [
        ("max", Function::Max),
        ("min", Function::Min),
        ("sum", Function::Sum),
        ("union", Function::Union { by: None }),
        ("append", Function::Append),
        ("text", Function::Text),
        ("latest", Function::Rule(Rule::LatestWins)),
        ("server", Function::Rule(Rule::ServerWins)),
        ("client", Function::Rule(Rule::ClientWins)),
        ("manager", Function::Rule(Rule::ManagerWins)),
        ("manual", Function::Rule(Rule::Manual)),
        ("derived", Function::Derived),
    ];
}

/// A function as the configuration writes it: `"max"`, or `{ function = "union", by = "id" }`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum FunctionText {
    Word(String),
    #[serde(rename_all = "snake_case")]
    By {
        function: String,
        by: String,
    },
}

impl TryFrom<FunctionText> for Function {
    type Error = String;

    fn try_from(text: FunctionText) -> Result<Function, String> {
        let (word, by) = match text {
            FunctionText::Word(word) => (word, None),
            FunctionText::By { function, by } => (function, Some(by)),
        };
        let found = Function::WORDS.into_iter().find(|(known, _)| *known == word).map(|(_, function)| function);
        match (found, by) {
            (Some(Function::Union { .. }), by) => Ok(Function::Union { by }),
            (Some(_), Some(_)) => Err("only \"union\" takes \"by\"".into()),
            (Some(function), None) => Ok(function),
            (None, _) => {
                let known: Vec<&str> = Function::WORDS.iter().map(|(word, _)| *word).collect();
                Err(format!("unknown merge function {word:?}, expected one of {}", known.join(", ")))
            }
        }
    }
}

impl From<Function> for FunctionText {
    fn from(function: Function) -> FunctionText {
        if let Function::Union { by: Some(by) } = function {
            return FunctionText::By { function: "union".into(), by };
        }
        let word = Function::WORDS.iter().find(|(_, known)| *known == function).map_or("", |(word, _)| *word);
        FunctionText::Word(word.into())
    }
}

/// What becomes of a change whose base is unknown and which is older than the server's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stale {
    /// It loses, before any merge function.
    ServerWins,
}

/// Where a JSON Schema stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Schema {
    /// In a file beside `backroom.toml`.
    File(String),
    /// Here.
    Inline(serde_json::Map<String, serde_json::Value>),
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
    /// Fields with a function of their own, by path (see [`super::path`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub merge: BTreeMap<String, Function>,
    /// Changes with an unknown base that are older than the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// What every record must look like: a JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    /// A Rhai script, or the name of a file beside `backroom.toml` that ends in `.rhai`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
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
            merge: BTreeMap::new(),
            stale: None,
            schema: None,
            script: None,
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

    /// What is wrong with these rules, in one sentence, or nothing. What its script and schema say is not looked at.
    pub fn check(&self) -> Result<(), String> {
        const PROTOCOL: [&str; 4] = ["id", "version", "updated_at", "deleted"];
        let merged: Vec<String> = self.merge.keys().map(|path| path::steps(path).swap_remove(0)).collect();
        let named = self.required.iter().chain(&self.unique).chain(&self.scope_field).chain(&merged);
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
        if let Some(field) = self.scope_field().filter(|field| merged.iter().any(|name| name == field)) {
            return Err(format!("{field:?} says whose record it is and takes no merge function"));
        }
        for (path, function) in &self.merge {
            if let Some(outer) = path::outer(path).find(|outer| self.merge.contains_key(*outer)) {
                return Err(format!("merge: {path:?} lies within {outer:?}, which has a function already"));
            }
            if *function == Function::Derived && self.script.is_none() {
                return Err(format!("merge: {path:?} is derived, and there is no script that derives it"));
            }
        }
        if self.rule == Rule::Script && self.script.is_none() {
            return Err("rule = \"script\" needs a script".into());
        }
        if self.append_only && (!self.merge.is_empty() || self.rule == Rule::Script) {
            return Err("append_only records never change, so nothing is merged".into());
        }
        Ok(())
    }
}

/// The rules of a whole office: what `backroom.toml` says of its tables.
pub type Tables = std::collections::BTreeMap<super::ids::TableName, TableRules>;
