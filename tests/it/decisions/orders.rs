//! The order of arrival: which tables end alike whatever order the edits of two or three devices come in, and which do not.
//!
//! Each device's edits keep their own order, and all of them began from the record's first version.

use std::collections::{BTreeMap, BTreeSet};

use backroom::domain::actor::Role;
use backroom::domain::change::Position;
use backroom::domain::rules::{Granularity, Rule, TableRules};
use serde_json::{Value, json};

use super::reference::{Asked, Began, Case, Fields, Outcome, Row, Said};
use super::{Dice, decided};

/// One edit; `to`: the whole record as the device then has it, `None`: deleted.
#[derive(Clone, Debug)]
struct Edit {
    device: usize,
    role: Role,
    at: i64,
    to: Option<Fields>,
}

fn first() -> Fields {
    serde_json::from_value(json!({ "a": "0", "b": "0", "n": 5, "d": 0.1, "x": 10, "y": 10, "u": ["k", "l"], "l": ["k"] })).unwrap()
}

fn table(rule: Rule, granularity: Granularity) -> TableRules {
    let merge = json!({ "n": "sum", "d": "sum", "x": "max", "y": "min", "u": "union", "l": "append" });
    TableRules { rule, granularity, merge: serde_json::from_value(merge).unwrap(), ..TableRules::default() }
}

/// The record after these edits in this order.
fn arrive(rules: &TableRules, edits: &[&Edit]) -> Option<Fields> {
    let mut history = vec![(
        usize::MAX,
        Row {
            seq: 1,
            version: 1,
            deleted: false,
            data: first(),
            scope: String::new(),
            own: false,
            clean: true,
            role: Role::Store,
            edited: 0,
            received: 0,
        },
    )];
    let mut said = BTreeMap::<usize, Said>::new();
    for Edit { device, role, at, to } in edits.iter().copied() {
        let rows = history.iter().map(|(author, row)| Row { own: author == device, ..row.clone() });
        let outcome = decided(&Case {
            rules: rules.clone(),
            role: *role,
            user: "ben",
            stores: vec![],
            history: rows.collect(),
            cut: false,
            said: said.get(device).cloned(),
            asked: to.clone().map_or(Asked::Delete, Asked::Whole),
            began: Began::Version(1),
            when: Some(*at),
            edited: *at,
            position: Position::Never,
            purged: false,
            named: true,
            horizon: 0,
        });
        let written = match outcome {
            Outcome::Noop => None,
            Outcome::Applied(written) | Outcome::Merged(written) => Some(written),
            Outcome::Conflict { written, .. } => written,
            Outcome::Rejected(refusal) => panic!("{refusal}: {edits:?}"),
        };
        if let Some(written) = written {
            let version = history.len() as i64 + 1;
            let clean = written.sent.is_none();
            let (data, deleted) = (written.data, written.deleted);
            let row =
                Row { seq: version, version, deleted, data, scope: String::new(), own: true, clean, role: *role, edited: *at, received: 0 };
            history.push((*device, row));
        }
        let newest = history.len() as i64;
        said.insert(*device, Said { data: to.clone(), when: *at, version: newest, seq: newest, clean: false });
    }
    let (_, last) = history.pop().unwrap();
    (!last.deleted).then_some(last.data)
}

/// Every order in which each device's own edits keep theirs.
fn orders(script: &[Edit]) -> Vec<Vec<&Edit>> {
    if script.is_empty() {
        return vec![Vec::new()];
    }
    let devices: BTreeSet<usize> = script.iter().map(|edit| edit.device).collect();
    let mut all = Vec::new();
    for device in devices {
        let next = script.iter().position(|edit| edit.device == device).unwrap();
        let rest: Vec<Edit> = script.iter().enumerate().filter(|(at, _)| *at != next).map(|(_, edit)| edit.clone()).collect();
        for order in orders(&rest) {
            // The same edits, found again in the whole script.
            let found = order.iter().map(|edit| script.iter().find(|other| (other.device, other.at) == (edit.device, edit.at)).unwrap());
            all.push(std::iter::once(&script[next]).chain(found).collect());
        }
    }
    all
}

/// How scripts are made.
#[derive(Clone, Copy)]
struct Scripts {
    fields: &'static [&'static str],
    /// A device may edit twice, one after the other.
    chained: bool,
    roles: &'static [Role],
    /// All at the same time.
    at_once: bool,
    /// One in so many edits is a delete.
    deletes: Option<usize>,
    /// A number may fall as well as rise.
    any: bool,
}

const ONE: Scripts = Scripts { fields: &[], chained: false, roles: &[Role::Store], at_once: false, deletes: None, any: false };
const CHAINED: Scripts = Scripts { chained: true, ..ONE };
const BOTH: &[Role] = &[Role::Store, Role::Manager];

fn script(dice: &mut Dice, how: Scripts) -> Vec<Edit> {
    let mut times: Vec<i64> = (1..30).map(|at| at * 10).collect();
    let mut script = Vec::new();
    for device in 0..2 + dice.roll(2) {
        let (role, mut now) = (dice.pick(how.roles), first());
        let at = if how.at_once { 7 } else { times.remove(dice.roll(times.len())) };
        if how.deletes.is_some_and(|sides| dice.one_in(sides)) {
            script.push(Edit { device, role, at, to: None });
            continue;
        }
        for turn in 0..if how.chained && dice.one_in(2) { 2 } else { 1 } {
            let only = dice.pick(how.fields);
            for field in how.fields.iter().copied() {
                if field != only && dice.one_in(2) {
                    continue;
                }
                let letter = json!(dice.pick(&["m", "n", "o", "p", "q"]));
                let step = 1 + dice.roll(5) as i64;
                let step = if how.any && dice.one_in(2) { -step } else { step };
                let value = match (field, now[field].clone()) {
                    ("n", Value::Number(n)) => json!(n.as_i64().unwrap() + if dice.one_in(2) { -step } else { step }),
                    ("d", _) => dice.pick(&[json!(0.2), json!(0.3), json!(0.8), json!(1.7)]),
                    ("x", Value::Number(n)) => json!(n.as_i64().unwrap() + step),
                    ("y", Value::Number(n)) => json!(n.as_i64().unwrap() - step),
                    ("u", Value::Array(list)) if how.any && dice.one_in(2) => json!(list[1..]),
                    ("u", Value::Array(list)) if list.contains(&letter) => json!(list),
                    (_, Value::Array(list)) => json!([list, vec![letter]].concat()),
                    _ => json!(format!("{device}.{turn}")),
                };
                now.insert(field.into(), value);
            }
            script.push(Edit { device, role, at: at + turn, to: Some(now.clone()) });
        }
    }
    script
}

/// Of what use an order in a list is, where only what is in it counts.
fn as_bags(record: Option<Fields>) -> Option<Fields> {
    let sorted = |value: Value| match value {
        Value::Array(mut list) => {
            list.sort_by_key(Value::to_string);
            json!(list)
        }
        other => other,
    };
    record.map(|record| record.into_iter().map(|(name, value)| (name, sorted(value))).collect())
}

/// The first script that ends in more than one way.
fn matters(rules: &TableRules, how: Scripts, lists: bool, tries: usize) -> Option<String> {
    let mut dice = Dice(7);
    for _ in 0..tries {
        let script = script(&mut dice, how);
        let mut ends = BTreeMap::<String, Vec<&Edit>>::new();
        for order in orders(&script) {
            let end = arrive(rules, &order);
            let end = if lists { end } else { as_bags(end) };
            ends.entry(json!(end).to_string()).or_insert(order);
        }
        if ends.len() > 1 {
            return Some(format!("{ends:#?}"));
        }
    }
    None
}

const FIELD: Granularity = Granularity::Field;
const RECORD: Granularity = Granularity::Record;

#[test]
fn where_the_order_of_arrival_does_not_matter() {
    let plain = &["a", "b"];
    for (name, rule, granularity, how) in [
        ("sums, one edit a device", Rule::LatestWins, FIELD, Scripts { fields: &["n"], ..ONE }),
        ("sums, chained", Rule::LatestWins, FIELD, Scripts { fields: &["n"], ..CHAINED }),
        ("sums of whole records", Rule::LatestWins, RECORD, Scripts { fields: &["n"], ..CHAINED }),
        ("sums of decimals", Rule::LatestWins, FIELD, Scripts { fields: &["d"], ..CHAINED }),
        ("max and min that only rise and fall", Rule::LatestWins, FIELD, Scripts { fields: &["x", "y"], ..CHAINED }),
        ("max, any edits, one a device", Rule::LatestWins, FIELD, Scripts { fields: &["x"], any: true, ..ONE }),
        ("union as a set, adding only", Rule::LatestWins, FIELD, Scripts { fields: &["u"], ..CHAINED }),
        ("union as a set, one edit a device", Rule::LatestWins, FIELD, Scripts { fields: &["u"], any: true, ..ONE }),
        ("append as a bag", Rule::LatestWins, FIELD, Scripts { fields: &["l"], ..CHAINED }),
        ("latest_wins by field", Rule::LatestWins, FIELD, Scripts { fields: plain, ..ONE }),
        ("latest_wins by field, chained", Rule::LatestWins, FIELD, Scripts { fields: plain, ..CHAINED }),
        ("manager_wins by field", Rule::ManagerWins, FIELD, Scripts { fields: plain, roles: BOTH, ..ONE }),
        ("latest_wins of whole records", Rule::LatestWins, RECORD, Scripts { fields: plain, ..ONE }),
        ("latest_wins of whole records, chained", Rule::LatestWins, RECORD, Scripts { fields: plain, ..CHAINED }),
        ("latest_wins by field beside sums and max, chained", Rule::LatestWins, FIELD, Scripts { fields: &["a", "n", "x"], ..CHAINED }),
        ("manager_wins of whole records", Rule::ManagerWins, RECORD, Scripts { fields: plain, roles: BOTH, ..ONE }),
    ] {
        let found = matters(&table(rule, granularity), how, false, if how.chained { 40 } else { 150 });
        assert!(found.is_none(), "{name}: {}", found.unwrap());
    }
}

/// So that nobody relies on it, and the documents may say so.
#[test]
fn where_the_order_of_arrival_matters() {
    let plain = &["a", "b"];
    for (name, rule, granularity, how, lists) in [
        ("client_wins", Rule::ClientWins, FIELD, Scripts { fields: plain, ..ONE }, false),
        ("server_wins", Rule::ServerWins, FIELD, Scripts { fields: plain, ..ONE }, false),
        ("latest_wins at equal times", Rule::LatestWins, FIELD, Scripts { fields: plain, at_once: true, ..ONE }, false),
        ("latest_wins of whole records beside sums", Rule::LatestWins, RECORD, Scripts { fields: &["a", "n", "x"], ..ONE }, false),
        ("max that falls and rises again", Rule::LatestWins, FIELD, Scripts { fields: &["x"], any: true, ..CHAINED }, false),
        ("union as a list", Rule::LatestWins, FIELD, Scripts { fields: &["u"], ..ONE }, true),
        ("append as a list", Rule::LatestWins, FIELD, Scripts { fields: &["l"], ..ONE }, true),
        ("latest_wins with deletes", Rule::LatestWins, FIELD, Scripts { fields: plain, deletes: Some(3), ..ONE }, false),
    ] {
        assert!(matters(&table(rule, granularity), how, lists, 3_000).is_some(), "{name} seems not to depend on the order");
    }
}
