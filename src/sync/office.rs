//! The office's rules as the appliance uses them: tables with their numbers, and what follows from a change of rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::domain::actor::{Actor, Role};
use crate::domain::ids::{StoreId, TableName};
use crate::domain::record::{Content, Hash, unquote};
use crate::domain::rules::{self, Scope, TableRules, Tables};
use crate::domain::schema::Schema;
use crate::script::Script;
use crate::sqlite::writer::Outcome;
use crate::store::live::{FeedNo, State, TableNo};
use crate::store::{self, Store, meta, records, unique};

use super::{Error, Result};

/// A table with its rules.
#[derive(Debug)]
pub struct Table {
    /// Its number in the database.
    pub no: TableNo,
    /// Its name.
    pub name: TableName,
    /// Its rules.
    pub rules: TableRules,
    /// Its script.
    pub script: Option<Script>,
    /// What its records must look like.
    pub schema: Option<Schema>,
}

impl Table {
    /// It has a script that derives, or a schema: no record is written before they were asked.
    pub fn finishes(&self) -> bool {
        self.schema.is_some() || self.script.as_ref().is_some_and(Script::derives)
    }

    /// The unique key of a content, where the table has one and all its fields are there.
    pub fn unique_key(&self, content: &Content) -> Option<Hash> {
        if self.rules.unique.is_empty() {
            return None;
        }
        let values: Option<Vec<&str>> = self.rules.unique.iter().map(|field| content.value(field)).collect();
        Some(Hash::of(values?.join(",").as_bytes()))
    }

    /// The scope value of a content; empty in office tables, and where the field names nobody.
    pub fn scope_of(&self, content: &Content) -> String {
        let value = self.rules.scope_field().and_then(|field| content.value(field)).filter(|value| value.starts_with('"'));
        let value = value.map(|value| unquote(value).into_owned()).filter(|value| StoreId::parse(value).is_ok());
        value.unwrap_or_default()
    }

    /// The scope values of this table in an actor's view; `None`: all of them.
    pub fn scopes<'a>(&self, actor: &'a Actor) -> Option<Vec<&'a str>> {
        match self.rules.scope {
            _ if !actor.may_read(&self.rules) => Some(Vec::new()),
            Scope::Office => Some(vec![""]),
            _ if actor.role.sees_all() => None,
            Scope::Store => Some(actor.stores.iter().map(StoreId::as_str).collect()),
            Scope::User => Some(vec![actor.user.as_str()]),
        }
    }

    /// The feeds of this table in an actor's view.
    pub fn feeds(&self, actor: &Actor, state: &State) -> Vec<FeedNo> {
        match self.scopes(actor) {
            None => state.feeds_of(self.no).map(|(no, _)| no).collect(),
            Some(scopes) => scopes.into_iter().filter_map(|scope| Some(state.feed(self.no, scope)?.0)).collect(),
        }
    }
}

/// All tables.
#[derive(Debug, Default)]
pub struct Office {
    by_name: BTreeMap<TableName, Arc<Table>>,
    by_no: HashMap<TableNo, Arc<Table>>,
    /// Generation of the views that these rules make. A pull answers by it, so that one that began under other rules is
    /// known by its cursor.
    pub view: i64,
}

impl Office {
    /// A table by name.
    pub fn table(&self, name: &str) -> Option<&Arc<Table>> {
        self.by_name.get(&TableName::parse(name).ok()?)
    }

    /// A table by number.
    pub fn numbered(&self, no: TableNo) -> Option<&Arc<Table>> {
        self.by_no.get(&no)
    }

    /// All tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.by_name.values()
    }
}

/// A table's rules with what is compiled of them.
type Compiled = (TableName, TableRules, Option<Script>, Option<Schema>);

fn compile(rules: &TableRules) -> std::result::Result<(Option<Script>, Option<Schema>), String> {
    let script = rules.script.as_deref().map(Script::compile).transpose()?;
    let schema = match &rules.schema {
        Some(rules::Schema::Inline(schema)) => Some(Schema::compile(&serde_json::Value::Object(schema.clone()))?),
        Some(rules::Schema::File(name)) => return Err(format!("the schema {name} was not read")),
        None => None,
    };
    Ok((script, schema))
}

/// What of a table's rules decides who sees its records: name, scope, the scope's field, least role that reads.
type View = (String, Scope, Option<String>, Role);

fn view(table: &Table) -> View {
    (table.name.to_string(), table.rules.scope, table.rules.scope_field().map(str::to_owned), table.rules.read)
}

/// Puts rules in force: numbers the tables, starts a new view generation if what devices may see changes, moves records
/// to the feeds of another scope, and builds unique keys anew where they change. Writes nothing if nothing changed.
pub async fn adopt(store: &Store, tables: Tables) -> Result<Office> {
    let compiled = |(name, rules): (TableName, TableRules)| {
        let (script, schema) = compile(&rules).map_err(|sentence| Error::Rules(format!("[tables.{name}]: {sentence}")))?;
        Ok((name, rules, script, schema))
    };
    let tables = tables.into_iter().map(compiled).collect::<Result<Vec<_>>>()?;
    let numbers = |tables: Vec<Compiled>| {
        move |db: &rusqlite::Connection, ledger: &mut store::ledger::Ledger| {
            let mut office = Office::default();
            for (name, rules, script, schema) in tables {
                let no = ledger.table(db, name.as_str())?;
                let table = Arc::new(Table { no, name: name.clone(), rules, script, schema });
                office.by_no.insert(no, table.clone());
                office.by_name.insert(name, table);
            }
            let views = serde_json::to_string(&office.tables().map(|table| view(table)).collect::<Vec<_>>()).unwrap_or_default();
            let before: Option<String> = meta::read(db, meta::VIEW_RULES)?;
            let mut moved = false;
            if before.as_deref() != Some(&views) {
                let before: Vec<View> = before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                for table in office.tables() {
                    let (name, scope, field, _) = view(table);
                    if !before.iter().any(|old| (&old.0, &old.1, &old.2) == (&name, &scope, &field)) {
                        moved |= records::rescope(db, ledger, table.no, |content| table.scope_of(content))?;
                    }
                }
                meta::write(db, meta::VIEW_RULES, views)?;
                meta::raise(db, meta::VIEW)?;
                ledger.raise_view(meta::read(db, meta::VIEW)?.unwrap_or(1));
            }
            office.view = meta::read(db, meta::VIEW)?.unwrap_or(1);
            unique_keys(db, &office, moved)?;
            Ok(Outcome::Keep(office))
        }
    };
    Ok(store.writer.run(numbers(tables)).await?)
}

fn unique_keys(db: &rusqlite::Connection, office: &Office, all: bool) -> store::Result<()> {
    let now: BTreeMap<&str, &[String]> =
        office.tables().filter(|t| !t.rules.unique.is_empty()).map(|t| (t.name.as_str(), t.rules.unique.as_slice())).collect();
    let text = serde_json::to_string(&now).unwrap_or_default();
    let before: String = meta::read(db, meta::UNIQUE_RULES)?.unwrap_or_else(|| "{}".into());
    if before == text && !all {
        return Ok(());
    }
    let before: BTreeMap<String, Vec<String>> = serde_json::from_str(&before).unwrap_or_default();
    for table in office.tables() {
        if !all && before.get(table.name.as_str()).unwrap_or(&Vec::new()) == &table.rules.unique {
            continue;
        }
        unique::clear(db, table.no)?;
        unique::each_live(db, table.no, |feed, id, content| match table.unique_key(&content) {
            Some(key) => unique::take(db, feed, key, id),
            None => Ok(()),
        })?;
    }
    meta::write(db, meta::UNIQUE_RULES, text)?;
    Ok(())
}
