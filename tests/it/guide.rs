//! The guide to rules, docs/rules.md, held against the appliance: every row of its tables is played with two devices.
//!
//! The guide says how its rows are read. A table's rules are in the block of TOML above it.

use std::collections::BTreeMap;

use backroom::config::Config;
use backroom::domain::actor::Role;
use backroom::domain::clock;
use serde_json::{Value, json};

use crate::support::{Appliance, Device, Pushed};

const GUIDE: &str = include_str!("../../docs/rules.md");

/// A row by its columns' names.
type Row = BTreeMap<String, String>;

/// A block of rules, and the rows of the tables under it.
struct Block {
    rules: String,
    rows: Vec<Row>,
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// All blocks of TOML with what stands under them.
fn blocks() -> Vec<Block> {
    let (mut blocks, mut columns): (Vec<Block>, Vec<String>) = (Vec::new(), Vec::new());
    let mut lines = GUIDE.lines();
    while let Some(line) = lines.next() {
        if line == "```toml" {
            let rules: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { rules: rules.join("\n"), rows: Vec::new() });
        } else if !line.starts_with('|') {
            columns.clear();
        } else if columns.is_empty() {
            columns = cells(line);
        } else if columns.contains(&"base".to_owned()) && !line.starts_with("|-") {
            let values = cells(line);
            assert_eq!(values.len(), columns.len(), "{line}");
            blocks.last_mut().unwrap().rows.push(columns.iter().cloned().zip(values).collect());
        }
    }
    blocks
}

/// What a cell says that a device did.
struct Deed {
    manager: bool,
    base_known: bool,
    /// Minutes after midnight.
    time: i64,
    /// Fields that it changed, edit by edit; `None`: it deletes.
    edits: Vec<Option<Value>>,
}

fn deed(cell: &str, time: i64) -> Deed {
    let mut deed = Deed { manager: false, base_known: true, time, edits: Vec::new() };
    for (place, part) in cell.replace("no base", "baseless").split('`').enumerate() {
        if place % 2 == 1 {
            deed.edits.push(Some(json_of(part)));
            continue;
        }
        for word in part.split_whitespace() {
            match word {
                "manager" => deed.manager = true,
                "baseless" => deed.base_known = false,
                "deletes" => deed.edits.push(None),
                time => {
                    let (hours, minutes) = time.split_once(':').unwrap_or_else(|| panic!("{word:?} in {cell:?}"));
                    deed.time = hours.parse::<i64>().unwrap() * 60 + minutes.parse::<i64>().unwrap();
                }
            }
        }
    }
    assert!(!deed.edits.is_empty(), "{cell:?} does nothing");
    deed
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The one piece of code in a cell.
fn code_of(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

/// Lays the fields that a device changed over what it began from; null removes one.
fn lay(over: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().unwrap() {
        match value {
            Value::Null => drop(over.as_object_mut().unwrap().remove(name)),
            Value::Object(_) if over[name].is_object() => lay(&mut over[name], value),
            _ => over[name] = value.clone(),
        }
    }
}

struct Play {
    _office: Appliance,
    /// What counts as midnight, in microseconds: all of the day is past.
    midnight: i64,
    table: String,
    author: Device,
    /// A and B, as employees and as managers.
    devices: [[Device; 2]; 2],
}

impl Play {
    async fn of(rules: &str) -> Play {
        let office = Appliance::with(rules).await;
        let midnight = office.clock.now() - 86_400_000_000;
        let table = Config::parse(rules).unwrap().tables().keys().next().unwrap().to_string();
        let author = office.someone("author", Role::Store, &[]).await;
        let employees = [office.someone("a", Role::Store, &[]).await, office.someone("b", Role::Store, &[]).await];
        let managers = [office.boss("c").await, office.boss("d").await];
        Play { _office: office, midnight, table, author, devices: [employees, managers] }
    }

    fn time(&self, minutes: i64) -> String {
        clock::text(self.midnight + minutes * 60_000_000)
    }

    async fn begin(&self, id: &str, base: &str) -> Option<Value> {
        let base = (base != "none").then(|| json_of(code_of(base).unwrap()));
        if let Some(base) = &base {
            let mut record = base.clone();
            (record["id"], record["version"], record["updated_at"]) = (id.into(), 0.into(), self.time(9 * 60).into());
            self.author.push_one(&self.table, record).await.applied(&self.table, id);
        }
        for device in self.devices.iter().flatten() {
            device.pull().await;
        }
        base
    }

    /// A device pushes what it did offline, as one push.
    async fn push(&self, id: &str, which: usize, base: Option<&Value>, cell: &str) -> Pushed {
        let deed = deed(cell, [600, 605][which]);
        let (mut shown, mut operations) = (base.cloned().unwrap_or_else(|| json!({})), Vec::new());
        for (place, edit) in deed.edits.iter().enumerate() {
            let mut operation = json!({ "table": self.table, "id": id, "updated_at": self.time(deed.time + place as i64) });
            match edit {
                None => operation["op"] = "delete".into(),
                Some(fields) => {
                    lay(&mut shown, fields);
                    (operation["op"], operation["data"]) = ("update".into(), shown.clone());
                }
            }
            if deed.base_known {
                operation["base"] = if base.is_some() { json!({ "version": 1 }) } else { Value::Null };
            }
            operations.push(operation);
        }
        self.devices[usize::from(deed.manager)][which].push(json!({ "operations": operations })).await
    }

    /// The record as the guide writes it.
    async fn stored(&self, id: &str) -> Value {
        let answer = self.author.record(&self.table, id).await;
        if answer.status == 404 {
            return "nothing".into();
        }
        let mut record = answer.ok()["record"].clone();
        if record["deleted"] == true {
            return "deleted".into();
        }
        for field in ["id", "version", "updated_at"] {
            record.as_object_mut().unwrap().remove(field);
        }
        record
    }

    /// Plays a row with A first; what is not so.
    async fn row(&self, id: &str, row: &Row) -> Vec<String> {
        let base = self.begin(id, &row["base"]).await;
        let mut pushed = self.push(id, 0, base.as_ref(), &row["device A"]).await;
        if row["device B"] != "—" {
            assert_eq!(told(&pushed), "no", "device A alone: {row:?}");
            pushed = self.push(id, 1, base.as_ref(), &row["device B"]).await;
        }
        let (stored, told) = (self.stored(id).await, told(&pushed));
        let right = stored == expected(&row["stored"]) && told == row["conflict"];
        if right { Vec::new() } else { vec![format!("{row:?}\n  stored {stored}, conflict {told}")] }
    }

    /// Plays a row in both orders; what is not so.
    async fn orders(&self, id: &str, row: &Row) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, order) in [("A first", [0, 1]), ("B first", [1, 0])] {
            let id = format!("{id}-{}", order[0]);
            let base = self.begin(&id, &row["base"]).await;
            for which in order {
                let pushed = self.push(&id, which, base.as_ref(), &row[["device A", "device B"][which]]).await;
                assert_eq!(pushed.0["rejected"], json!([]), "{row:?}");
            }
            let stored = self.stored(&id).await;
            if stored != expected(&row[name]) {
                wrong.push(format!("{row:?}\n  {name} {stored}"));
            }
        }
        wrong
    }
}

fn expected(cell: &str) -> Value {
    code_of(cell).map_or_else(|| cell.into(), json_of)
}

/// What a push was told of its conflict, in the guide's words.
fn told(pushed: &Pushed) -> String {
    if let Some(refused) = pushed.0["rejected"].get(0) {
        return format!("refused: `{}`", refused["code"].as_str().unwrap());
    }
    let Some(conflict) = pushed.0["conflicts"].get(0) else { return "no".into() };
    let fields = conflict["fields"].as_array().unwrap().iter().zip(conflict["winners"].as_array().unwrap());
    let fields: Vec<String> = fields
        .map(|(field, winner)| {
            let word = match winner.as_str().unwrap() {
                "client" => "B wins",
                "server" => "A wins",
                "merged" => "both",
                _ => "waits",
            };
            format!("`{}`: {word}", field.as_str().unwrap())
        })
        .collect();
    let reason = conflict["reason"].as_str().unwrap();
    let reason = if reason == "rule" { String::new() } else { format!(" (`{reason}`)") };
    format!("{}{reason}", fields.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_guide_is_true() {
    let (mut rows, mut wrong) = (0, Vec::new());
    for block in blocks() {
        let play = Play::of(&block.rules).await;
        assert!(!block.rows.is_empty(), "rules without an example:\n{}", block.rules);
        for (place, row) in block.rows.iter().enumerate() {
            let id = format!("r{place}");
            wrong.extend(if row.contains_key("A first") { play.orders(&id, row).await } else { play.row(&id, row).await });
        }
        rows += block.rows.len();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows > 80, "only {rows} rows were found");
}

#[test]
fn the_order_of_pushes_matters_where_the_guide_says_so() {
    let all = blocks();
    let rows: Vec<&Row> = all.iter().flat_map(|block| &block.rows).filter(|row| row.contains_key("A first")).collect();
    for row in &rows {
        let differs = row["A first"] != row["B first"];
        assert!(row.contains_key(if differs { "matters" } else { "does not matter" }), "{row:?}");
    }
    assert!(rows.len() > 15);
}

#[test]
fn the_guide_has_every_rule_and_function() {
    let preset_names = backroom::config::presets::ALL.iter().map(|(name, _)| *name);
    let words = ["manager_wins", "latest_wins", "server_wins", "client_wins", "manual", "script", "max", "min", "sum", "union", "append"];
    let more = ["text", "derived", "latest", "server", "client", "manager", "stale", "schema", "granularity"];
    for word in words.into_iter().chain(more).chain(preset_names) {
        assert!(GUIDE.contains(&format!("`{word}")), "{word} is not in the guide");
    }
}
