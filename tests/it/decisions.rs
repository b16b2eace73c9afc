//! `domain::decide` against a second writing-down of the rules (`reference`), over a hundred thousand random short histories
//! and one change each; and each rule in a small case that shows it (`named`).

mod functions;
mod named;
mod orders;
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use backroom::domain::actor::{Actor, Role};
use backroom::domain::ask::Replies;
use backroom::domain::change::{Base, Change, Edit, Position};
use backroom::domain::decide::{self, Decision, Given, Lineage, Reach, Refusal, Sent, Version, Write};
use backroom::domain::ids::{RecordId, StoreId, UserId};
use backroom::domain::record::{Content, Hash};
use backroom::domain::rules::{Function, Granularity, Rule, Scope, Stale, TableRules};
use serde_json::{Value, json};

use reference::{Asked, Began, Case, Fields, Outcome, Row, Said, Written};

fn content(data: &Fields) -> Content {
    Content::from_value(&json!(data)).unwrap()
}

fn fields(content: &Content) -> Fields {
    serde_json::from_str(content.text()).unwrap()
}

/// `hashed`: somebody will ask for the hash, which is the slowest thing here.
fn version(row: &Row, hashed: bool) -> Version {
    let content = content(&row.data);
    Version {
        seq: row.seq,
        version: row.version,
        deleted: row.deleted,
        hash: if hashed { content.hash() } else { Hash::default() },
        content,
        scope: row.scope.clone(),
        own: row.own,
        clean: row.clean,
        role: row.role,
        edited_at: row.edited,
        updated_at: row.edited,
        received_at: row.received,
    }
}

/// The walk as the push does it: down from the present version, until the base is met or the history ends.
fn lineage(case: &Case, change: &Change, actor: &Actor) -> Lineage {
    let mut lineage = Lineage::default();
    for row in case.history.iter().rev() {
        let version = version(row, matches!(change.base, Base::Hash(_)));
        let hidden = !actor.in_scope(case.rules.scope, &version.scope);
        match decide::reach(&change.base, case.position, &version) {
            Reach::Base if hidden && matches!(change.base, Base::Hash(_) | Base::Data(_)) => lineage.above.push(version),
            Reach::Base if !hidden => {
                lineage.base = Some(version);
                return lineage;
            }
            Reach::Above => lineage.above.push(version),
            Reach::Base | Reach::Below => {
                lineage.gap = true;
                return lineage;
            }
        }
    }
    lineage.gap = case.cut || (!case.history.is_empty() && matches!(change.base, Base::Version(_) | Base::Hash(_)));
    lineage
}

/// What the office decides, in the reference's words.
fn decided(case: &Case) -> Outcome {
    let actor = Actor {
        device: None,
        user: UserId::trusted(case.user),
        role: case.role,
        stores: case.stores.iter().map(|store| StoreId::trusted(*store)).collect(),
    };
    let change = Change {
        id: RecordId::trusted("r"),
        edit: match &case.asked {
            Asked::Whole(data) => Edit::Whole(content(data)),
            Asked::Patch(patch) => Edit::Patch(content(patch)),
            Asked::Delete => Edit::Delete,
        },
        base: match &case.began {
            Began::Nothing => Base::Nothing,
            Began::Version(n) => Base::Version(*n),
            Began::Hash(data) => Base::Hash(content(data).hash()),
            Began::Data(data) => Base::Data(content(data)),
            Began::Position => Base::Absent,
        },
        updated_at: case.when,
        op_id: None,
    };
    let last_sent = case.said.as_ref().map(|said| Sent {
        content: said.data.as_ref().map(content),
        updated_at: said.when,
        version: said.version,
        seq: said.seq,
        clean: said.clean,
    });
    let current = case.history.last().map(|row| version(row, false));
    let decision = decide::decide(&Given {
        table: "t",
        rules: &case.rules,
        finishes: false,
        replies: &Replies::new(),
        actor: &actor,
        change: &change,
        current: current.as_ref(),
        lineage: &lineage(case, &change, &actor),
        last_sent: last_sent.as_ref(),
        position: case.position,
        purged: case.purged,
        edited_at: case.edited,
        derived: !case.named,
        horizon: case.horizon,
    });
    let written = |write: Write| {
        // What is written is canonical, or the next comparison would go wrong.
        let data = fields(&write.content);
        assert_eq!(content(&data), write.content);
        let sent = write.sent.as_ref().map(fields);
        Written { data, scope: write.scope, deleted: write.deleted, filled: write.filled, sent }
    };
    match decision {
        Decision::Noop(_) => Outcome::Noop,
        Decision::Apply(write) => Outcome::Applied(written(write)),
        Decision::Merge(write) => Outcome::Merged(written(write)),
        Decision::Reject(refusal, _) => Outcome::Rejected(match refusal {
            Refusal::Gone => "gone",
            Refusal::Forbidden => "forbidden",
            Refusal::StoreRequired => "store_required",
            Refusal::Immutable => "immutable",
            Refusal::Invalid => "invalid",
        }),
        Decision::Conflict(conflict) => Outcome::Conflict {
            why: conflict.why.word(),
            rule: conflict.rule.word(),
            winner: conflict.winner.word(),
            fields: conflict.fields.into_iter().zip(conflict.winners.iter().map(|winner| winner.word())).collect(),
            written: conflict.write.map(written),
            base: conflict.base.as_ref().map(fields),
            client: conflict.client.as_ref().map(fields),
        },
        Decision::Ask(question) => panic!("nothing is to be asked: {question:?}"),
    }
}

/// The same numbers every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ (self.0 >> 29);
        (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as usize % sides
    }

    pub fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())].clone()
    }
}

const NAMES: [&str; 13] = ["a", "b", "p.q", "*", "o", "n", "x", "y", "u", "l", "m", "f", "g"];

const MOMENTS: [&str; 4] = ["2025-01-01T00:00:00Z", "2025-01-01T02:00:00+02:00", "2025-01-01T00:00:00.5Z", "2024-12-31T20:00:00-05:00"];

/// A merge function a field, each now and then left out; what `o` has inside may have some of its own.
fn rules(dice: &mut Dice) -> TableRules {
    let by = Function::Union { by: Some("id".into()) };
    let own = [Rule::LatestWins, Rule::ServerWins, Rule::ClientWins, Rule::ManagerWins, Rule::Manual];
    let functions = [
        ("n", Function::Sum),
        ("x", Function::Max),
        ("y", Function::Min),
        ("u", Function::Union { by: None }),
        ("l", Function::Append),
        ("m", by),
        ("f", Function::Rule(dice.pick(&own))),
        ("g", Function::Rule(dice.pick(&own))),
        ("o.n", Function::Sum),
        ("o.x", Function::Max),
        ("o.deep", Function::Rule(dice.pick(&own))),
    ];
    let scope = dice.pick(&[Scope::Office, Scope::Office, Scope::Store, Scope::Store, Scope::User]);
    let append_only = dice.one_in(40);
    let mut merge = BTreeMap::new();
    for (path, function) in functions {
        if !append_only && !dice.one_in(4) && (!path.starts_with('o') || dice.one_in(2)) {
            merge.insert(path.to_owned(), function);
        }
    }
    let rules = TableRules {
        rule: dice.pick(&own),
        scope,
        scope_field: (scope == Scope::Store && dice.one_in(6)).then(|| "shop".into()),
        granularity: dice.pick(&[Granularity::Field, Granularity::Field, Granularity::Record]),
        required: if dice.one_in(8) { vec!["a".into()] } else { Vec::new() },
        append_only,
        merge,
        stale: dice.one_in(3).then_some(Stale::ServerWins),
        ..TableRules::default()
    };
    rules.check().unwrap();
    rules
}

/// A field's next value, perhaps none.
fn value(dice: &mut Dice, name: &str, before: Option<&Value>) -> Option<Value> {
    if dice.one_in(12) {
        return dice.pick(&[None, None, Some(Value::Null)]);
    }
    let number = before.and_then(Value::as_i64).unwrap_or(5);
    let list = before.and_then(Value::as_array).cloned().unwrap_or_default();
    Some(match name {
        "n" if dice.one_in(60) => json!("seven"),
        "n" => match dice.roll(6) {
            0 => json!(0.1 + dice.roll(5) as f64 / 4.0),
            1 => json!(9_007_199_254_740_993_i64 + dice.roll(3) as i64),
            _ => json!((number + dice.roll(7) as i64 - 3).clamp(-1_000_000, i64::MAX / 8)),
        },
        "x" | "y" => match dice.roll(8) {
            0 => json!(dice.pick(&MOMENTS)),
            1 => json!(dice.pick(&["red", "blue"])),
            2 => json!(2.5),
            _ => json!(dice.roll(9)),
        },
        "u" => match dice.roll(12) {
            0 => json!("none"),
            1 | 2 => json!(list.into_iter().skip(1).collect::<Vec<_>>()),
            _ => json!([list, vec![dice.pick(&[json!("k"), json!(1), json!("q"), json!({"z": 1})])]].concat()),
        },
        "l" => match dice.roll(8) {
            0 => json!(list.into_iter().skip(1).collect::<Vec<_>>()),
            1 => json!({}),
            _ => json!([list, vec![json!(dice.roll(4))]].concat()),
        },
        "m" => {
            let mut list = list;
            match dice.roll(10) {
                0 => return Some(json!(7)),
                1 => list.truncate(1),
                2 => list.push(dice.pick(&[json!("loose"), json!({"id": null}), json!(["k"])])),
                3 | 4 if !list.is_empty() => {
                    let at = dice.roll(list.len());
                    let changed = dice.roll(3);
                    if let Some(element) = list[at].as_object_mut() {
                        element.insert(dice.pick(&["s", "t"]).into(), json!(changed));
                    }
                }
                _ => list.push(json!({"id": dice.pick(&[json!("k.1"), json!(1), json!("j")]), "s": dice.roll(3)})),
            }
            json!(list)
        }
        "o" => {
            let mut object = before.and_then(Value::as_object).cloned().unwrap_or_default();
            if dice.one_in(12) {
                return Some(json!(dice.roll(3)));
            }
            for _ in 0..1 + dice.roll(2) {
                let name = dice.pick(&["n", "x", "w", "v.v", "deep"]);
                let changed = match name {
                    "n" => json!(object.get("n").and_then(Value::as_i64).unwrap_or(0) + dice.roll(5) as i64),
                    "deep" => {
                        let mut deep = object.get("deep").and_then(Value::as_object).cloned().unwrap_or_default();
                        deep.insert(dice.pick(&["q", "r"]).into(), json!(dice.roll(3)));
                        json!(deep)
                    }
                    _ => json!(dice.roll(4)),
                };
                if dice.one_in(10) {
                    object.remove(name)
                } else {
                    object.insert(name.into(), changed)
                };
            }
            json!(object)
        }
        _ => json!(dice.pick(&[json!(0), json!(1), json!("w"), json!(true)])),
    })
}

fn edited(dice: &mut Dice, data: &Fields, edits: usize) -> Fields {
    let mut data = data.clone();
    for _ in 0..edits {
        let name = dice.pick(&NAMES);
        match value(dice, name, data.get(name)) {
            Some(value) => data.insert(name.into(), value),
            None => data.remove(name),
        };
    }
    data
}

fn field_of_scope(rules: &TableRules) -> Option<&str> {
    match rules.scope {
        Scope::Office => None,
        Scope::Store => Some(rules.scope_field.as_deref().unwrap_or("store_id")),
        Scope::User => Some("user_id"),
    }
}

const OWNERS: [&str; 4] = ["A", "A", "B", "C"];

/// What becomes of the record: one to five versions by the pushing device and two others, some of them moves, deletes, revivals.
fn history(dice: &mut Dice, rules: &TableRules, mine: Role) -> Vec<Row> {
    let field = field_of_scope(rules);
    let mut history: Vec<Row> = Vec::new();
    let birth = 1 + dice.roll(2) as i64 * 3;
    let mut data = Fields::new();
    let edits = 2 + dice.roll(8);
    let mut next = edited(dice, &data, edits);
    for place in 0..1 + dice.roll(5) {
        let before = history.last();
        if place > 0 {
            let edits = 1 + dice.roll(3);
            next = if dice.one_in(15) { history[0].data.clone() } else { edited(dice, &data, edits) };
        }
        let mut scope = before.map_or_else(|| dice.pick(&OWNERS).to_owned(), |row| row.scope.clone());
        if dice.one_in(6) {
            scope = dice.pick(&OWNERS).to_owned();
        }
        if field.is_none() || (place == 0 && dice.one_in(40)) {
            scope.clear();
        }
        let was_dead = before.is_some_and(|row| row.deleted);
        let deleted = place > 0 && !was_dead && dice.one_in(7);
        if deleted {
            (next, scope) = (data, history[history.len() - 1].scope.clone());
        } else if let Some(field) = field
            && !scope.is_empty()
        {
            next.insert(field.into(), json!(scope));
        }
        let author = dice.roll(3);
        let edited = 200 + 10 * dice.roll(40) as i64;
        let at = birth + place as i64;
        history.push(Row {
            seq: at * 10,
            version: at,
            deleted,
            data: next.clone(),
            scope,
            own: author == 0,
            clean: deleted || !dice.one_in(5),
            role: [mine, Role::Store, dice.pick(&[Role::Manager, Role::Admin, Role::Service])][author],
            edited,
            received: if dice.one_in(5) { 50 } else { 150 },
        });
        data = next.clone();
    }
    history
}

fn case(dice: &mut Dice) -> Case {
    let rules = rules(dice);
    let role = dice.pick(&[Role::Store, Role::Store, Role::Manager, Role::Admin]);
    let stores = if role == Role::Store { dice.pick(&[vec!["A"], vec!["A"], vec!["A", "B"], vec![]]) } else { vec![] };
    let history = if dice.one_in(15) { Vec::new() } else { history(dice, &rules, role) };
    let cut = history.first().is_some_and(|row| row.version > 1);

    // What the device last said: its newest version, or an answer since then that left none.
    let own = history.iter().rev().find(|row| row.own);
    let mut said = own.map(|row| Said {
        data: (!row.deleted).then(|| if row.clean { row.data.clone() } else { edited(dice, &row.data, 2) }),
        when: row.edited,
        version: row.version,
        seq: row.seq,
        clean: row.clean,
    });
    if !history.is_empty() && dice.one_in(4) {
        let least = own.map_or(0, |own| history.iter().position(|row| row.seq == own.seq).unwrap());
        let row = &history[least + dice.roll(history.len() - least)];
        let clean = dice.one_in(2);
        let other = if dice.one_in(6) { None } else { Some(edited(dice, &row.data, 2)) };
        let data = if clean { (!row.deleted).then(|| row.data.clone()) } else { other };
        said = Some(Said { data, when: 200 + 10 * dice.roll(40) as i64, version: row.version, seq: row.seq + dice.roll(9) as i64, clean });
    }

    let some = |dice: &mut Dice| if history.is_empty() { Fields::new() } else { history[dice.roll(history.len())].data.clone() };
    let newest = history.last().map_or(0, |row| row.version);
    let began = match dice.roll(14) {
        0 | 1 => Began::Nothing,
        2 => Began::Hash(some(dice)),
        3 | 4 => {
            let data = some(dice);
            Began::Data(if dice.one_in(3) { edited(dice, &data, 2) } else { data })
        }
        5 => Began::Version(newest + 1),
        6..=8 => Began::Position,
        _ => Began::Version((newest - dice.roll(5) as i64).max(1)),
    };
    // An honest client edits what it had; some send anything.
    let had = match &began {
        Began::Data(data) | Began::Hash(data) if !dice.one_in(4) => data.clone(),
        Began::Version(n) if !dice.one_in(4) => {
            history.iter().find(|row| row.version == *n).map_or_else(Fields::new, |row| row.data.clone())
        }
        Began::Nothing if dice.one_in(2) => Fields::new(),
        _ if dice.one_in(3) => said.as_ref().and_then(|said| said.data.clone()).unwrap_or_default(),
        _ => some(dice),
    };
    let asked = match dice.roll(10) {
        0 => Asked::Delete,
        1 | 2 => {
            let mut patch = Fields::new();
            for _ in 0..1 + dice.roll(3) {
                let name = dice.pick(&NAMES);
                let changed = value(dice, name, had.get(name)).unwrap_or(Value::Null);
                patch.insert(name.into(), changed);
            }
            Asked::Patch(patch)
        }
        3 if !history.is_empty() => Asked::Whole(history[history.len() - 1].data.clone()),
        _ => {
            let edits = 1 + dice.roll(4);
            Asked::Whole(edited(dice, &had, edits))
        }
    };
    let asked = match (asked, field_of_scope(&rules)) {
        (Asked::Whole(mut data), Some(field)) => {
            match dice.roll(12) {
                0 => drop(data.remove(field)),
                1 => drop(data.insert(field.into(), json!(dice.pick(&OWNERS)))),
                2 if dice.one_in(3) => drop(data.insert(field.into(), dice.pick(&[json!(7), json!(""), json!("a b"), Value::Null]))),
                3 | 4 => drop(data.insert(field.into(), json!("A"))),
                _ => {}
            }
            Asked::Whole(data)
        }
        (Asked::Patch(mut patch), Some(field)) if dice.one_in(6) => {
            patch.insert(field.into(), json!(dice.pick(&OWNERS)));
            Asked::Patch(patch)
        }
        (asked, _) => asked,
    };
    let at = 200 + 10 * dice.roll(40) as i64;
    let seq = 10 * dice.roll(9) as i64;
    Case {
        rules,
        role,
        user: dice.pick(&["A", "B"]),
        stores,
        cut: cut && !dice.one_in(6),
        said,
        asked,
        began,
        when: (!dice.one_in(6)).then_some(at),
        edited: at + 5 * dice.roll(2) as i64,
        position: match dice.roll(5) {
            0 => Position::Never,
            1 => Position::Remembered { seq },
            _ => Position::Presented { seq, finished: !dice.one_in(6) },
        },
        purged: history.is_empty() && dice.one_in(3),
        history,
        named: dice.one_in(2),
        horizon: 100,
    }
}

/// What a decision was, for counting: its kind, and where it is a conflict its reason, rule and winner.
fn kinds(case: &Case, outcome: &Outcome) -> Vec<String> {
    match outcome {
        Outcome::Noop => vec!["noop".into()],
        Outcome::Applied(written) => vec![if written.deleted { "applied delete" } else { "applied" }.into()],
        Outcome::Merged(_) => vec![format!("merged, {:?}", case.rules.granularity)],
        Outcome::Rejected(refusal) => vec![format!("rejected {refusal}")],
        Outcome::Conflict { why: "rule", rule, winner, fields, written, .. } => {
            let whole = fields[0].0 == "*";
            let mut kinds =
                vec![format!("{rule}: {winner}"), format!("{:?}, {}", case.rules.granularity, if whole { "whole" } else { "fields" })];
            let all: BTreeSet<&str> = fields.iter().map(|(_, winner)| *winner).collect();
            if all.len() > 1 {
                kinds.push(format!("fields won by {}", all.into_iter().collect::<Vec<_>>().join(", ")));
            }
            if fields.iter().any(|(path, _)| path.contains("m.")) {
                kinds.push("in conflict within an element".into());
            }
            if fields.iter().any(|(path, _)| path.starts_with("o.")) {
                kinds.push("in conflict within an object".into());
            }
            if *winner == "server" && written.is_some() {
                kinds.push("lost, and brought something along".into());
            }
            kinds
        }
        Outcome::Conflict { why, winner, .. } => vec![format!("{why}: {winner}")],
    }
}

/// Every kind of decision, every reason, every rule with every winner that it can name, every function.
const ALL: [&str; 53] = [
    "noop",
    "applied",
    "applied delete",
    "merged, Field",
    "merged, Record",
    "rejected gone",
    "rejected forbidden",
    "rejected store_required",
    "rejected immutable",
    "rejected invalid",
    "manager_wins: client",
    "manager_wins: server",
    "latest_wins: client",
    "latest_wins: server",
    "server_wins: server",
    "client_wins: client",
    "manual: none",
    "late: server",
    "stale: server",
    "gap: none",
    "left_view: none",
    "unfit: none",
    "Field, fields",
    "Field, whole",
    "Record, fields",
    "Record, whole",
    "fields won by client, server",
    "fields won by client, none",
    "fields won by none, server",
    "fields won by client, none, server",
    "in conflict within an element",
    "in conflict within an object",
    "lost, and brought something along",
    "used sum",
    "used append",
    "used max",
    "used min",
    "used union",
    "used union by",
    "used nested",
    "used revive",
    "by whole",
    "by patch",
    "by delete",
    "from nothing",
    "from version",
    "from hash",
    "from data",
    "from position",
    "cut",
    "moved away and seen before",
    "named",
    "unnamed",
];

fn seen(case: &Case, outcome: &Outcome, used: BTreeSet<&'static str>) -> Vec<String> {
    let mut seen = kinds(case, outcome);
    seen.extend(used.into_iter().map(|used| format!("used {used}")));
    seen.push(match case.asked {
        Asked::Whole(_) => "by whole".into(),
        Asked::Patch(_) => "by patch".into(),
        Asked::Delete => "by delete".into(),
    });
    seen.push(match case.began {
        Began::Nothing => "from nothing".into(),
        Began::Version(_) => "from version".into(),
        Began::Hash(_) => "from hash".into(),
        Began::Data(_) => "from data".into(),
        Began::Position => "from position".into(),
    });
    seen.push(if case.named { "named" } else { "unnamed" }.into());
    if case.cut {
        seen.push("cut".into());
    }
    if matches!(outcome, Outcome::Conflict { why: "left_view", base: Some(_), .. }) {
        seen.push("moved away and seen before".into());
    }
    seen
}

/// A case as a person reads it.
fn story(case: &Case) -> String {
    let Case { rules, role, user, stores, cut, said, asked, began, when, edited, position, purged, named, .. } = case;
    let merge: Vec<String> = rules.merge.iter().map(|(path, function)| format!("{path}={function:?}")).collect();
    let mut text = format!(
        "{:?} {:?} {:?} field {:?} required {:?} append_only {} stale {:?} {}\nactor {role:?} {user} {stores:?}; purged {purged} cut {cut}\n",
        rules.rule,
        rules.granularity,
        rules.scope,
        rules.scope_field,
        rules.required,
        rules.append_only,
        rules.stale,
        merge.join(" "),
    );
    for row in &case.history {
        let Row { seq, version, deleted, data, scope, own, clean, role, edited, received } = row;
        text += &format!(
            "  {version} (seq {seq}) {}{} in {scope:?} {} {role:?} at {edited} received {received} {}\n",
            if *own { "own" } else { "other" },
            if *deleted { " DELETED" } else { "" },
            if *clean { "clean" } else { "unclean" },
            json!(data)
        );
    }
    if let Some(Said { data, when, version, seq, clean }) = said {
        text += &format!("  last sent at version {version} (seq {seq}) by its clock {when} clean {clean}: {}\n", json!(data));
    }
    let shown = match asked {
        Asked::Whole(data) => format!("whole {}", json!(data)),
        Asked::Patch(patch) => format!("patch {}", json!(patch)),
        Asked::Delete => "delete".into(),
    };
    let base = match began {
        Began::Hash(data) => format!("hash of {}", json!(data)),
        Began::Data(data) => format!("data {}", json!(data)),
        other => format!("{other:?}"),
    };
    let last = format!("{shown}\n  base {base}, {position:?}, by its clock {when:?}, edited {edited}, named {named}");
    text + last.as_str()
}

const CASES: u64 = 100_000;

#[test]
fn a_hundred_thousand_decisions_are_as_the_rules_are_written_down_again() {
    let halves = std::thread::scope(|scope| {
        let run = |half: u64| {
            let (mut counts, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
            for seed in (half..CASES).step_by(2) {
                let case = case(&mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                let (expected, used) = reference::decide(&case);
                let got = decided(&case);
                if got != expected {
                    wrong.push(format!("seed {seed}\n{}\nexpected {expected:#?}\ngot {got:#?}", story(&case)));
                }
                for kind in seen(&case, &expected, used) {
                    *counts.entry(kind).or_default() += 1;
                }
            }
            (counts, wrong)
        };
        [0, 1]
            .map(|half| scope.spawn(move || run(half)))
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let [(mut counts, mut wrong), (other, more)] = halves;
    wrong.extend(more);
    let simplest = wrong.iter().min_by_key(|story| story.len());
    assert!(simplest.is_none(), "{} of {CASES} differ; the simplest:\n{}", wrong.len(), simplest.unwrap());
    for (kind, count) in other {
        *counts.entry(kind).or_default() += count;
    }
    for kind in ALL {
        assert!(counts.get(kind).is_some_and(|count| *count >= 20), "{kind:?} hardly occurs: {counts:#?}");
    }
}
