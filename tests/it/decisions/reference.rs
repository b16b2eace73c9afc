//! The office's rules written down a second time, over plain JSON values: what edits are measured against, how two of them are
//! brought together, who wins. Nothing here comes from `domain` but the shapes of its configuration.
//!
//! It is written for reading, not for speed, and follows the order of the protocol's text.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use backroom::domain::actor::Role;
use backroom::domain::change::Position;
use backroom::domain::rules::{Function, Granularity, Rule, Scope, Stale, TableRules};
use serde_json::Value;

/// A record's fields.
pub type Fields = BTreeMap<String, Value>;

/// One version of the record.
#[derive(Debug, Clone)]
pub struct Row {
    pub seq: i64,
    pub version: i64,
    pub deleted: bool,
    pub data: Fields,
    pub scope: String,
    pub own: bool,
    pub clean: bool,
    pub role: Role,
    pub edited: i64,
    pub received: i64,
}

/// What the device last said of it.
#[derive(Debug, Clone)]
pub struct Said {
    pub data: Option<Fields>,
    pub when: i64,
    pub version: i64,
    pub seq: i64,
    pub clean: bool,
}

#[derive(Debug, Clone)]
pub enum Began {
    Nothing,
    Version(i64),
    Hash(Fields),
    Data(Fields),
    Position,
}

#[derive(Debug, Clone)]
pub enum Asked {
    Whole(Fields),
    Patch(Fields),
    Delete,
}

/// One decision's surroundings.
#[derive(Debug, Clone)]
pub struct Case {
    pub rules: TableRules,
    pub role: Role,
    pub user: &'static str,
    pub stores: Vec<&'static str>,
    /// Oldest first.
    pub history: Vec<Row>,
    /// Older versions were purged.
    pub cut: bool,
    pub said: Option<Said>,
    pub asked: Asked,
    pub began: Began,
    /// By the device's clock.
    pub when: Option<i64>,
    /// By the server's.
    pub edited: i64,
    pub position: Position,
    pub purged: bool,
    pub named: bool,
    /// Receipts from before may be gone.
    pub horizon: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub data: Fields,
    pub scope: String,
    pub deleted: bool,
    pub filled: bool,
    /// What was asked for, where it is not what is written.
    pub sent: Option<Fields>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Noop,
    Applied(Written),
    Merged(Written),
    Conflict {
        why: &'static str,
        rule: &'static str,
        winner: &'static str,
        /// Each path in conflict with its winner.
        fields: Vec<(String, &'static str)>,
        written: Option<Written>,
        base: Option<Fields>,
        client: Option<Fields>,
    },
    Rejected(&'static str),
}

/// A value that says something: a missing one and null say the same to a merge function.
fn said(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null())
}

/// A path as the protocol writes it.
fn written_path(names: &[String]) -> String {
    let step = |name: &String| match name.as_str() {
        "*" => "\\*".to_owned(),
        name => name.chars().flat_map(|c| if c == '.' || c == '\\' { vec!['\\', c] } else { vec![c] }).collect(),
    };
    names.iter().map(step).collect::<Vec<String>>().join(".")
}

fn below(path: &[String], name: &str) -> Vec<String> {
    path.iter().cloned().chain([name.to_owned()]).collect()
}

fn read_path(text: &str) -> Vec<String> {
    let (mut names, mut escaped) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                continue;
            }
            '.' => {
                names.push(String::new());
                continue;
            }
            _ => {}
        }
        names.last_mut().unwrap().push(c);
    }
    names
}

/// The name of an element that is matched by a member.
fn element_name(element: &Value, by: &str) -> Option<String> {
    match element.get(by)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Decimal numbers, exactly: so many thousandths of thousandths.
fn exactly(number: &Value) -> Option<i128> {
    let text = number.as_number()?.to_string();
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    assert!(rest.len() <= 6 && !text.contains('e'), "{text} is beyond what is reckoned with here");
    let scaled: i128 = format!("{whole}{rest:0<6}").parse().unwrap();
    Some(scaled)
}

fn number(scaled: i128) -> Value {
    let (sign, scaled) = (if scaled < 0 { "-" } else { "" }, scaled.unsigned_abs());
    let text = format!("{sign}{}.{:06}", scaled / 1_000_000, scaled % 1_000_000);
    let number: Value = serde_json::from_str(text.trim_end_matches('0').trim_end_matches('.')).unwrap();
    // What is no integer is a double, and written as JavaScript does, perhaps as a whole number.
    match number.as_f64() {
        Some(double) if number.is_f64() => serde_json::from_str(ryu_js::Buffer::new().format(double)).unwrap(),
        _ => number,
    }
}

struct Ruling<'a> {
    case: &'a Case,
    above: Vec<&'a Row>,
    base: Option<&'a Row>,
    gap: bool,
}

/// What an edit is measured against.
struct Measured {
    /// What it began from; `None`: unknown.
    from: Option<Fields>,
    /// It began from nothing.
    nothing: bool,
    /// Somebody else changed the record since.
    others: bool,
    gap: bool,
    /// Where the device stood does not say what it began from.
    unsure: bool,
    late: bool,
}

/// Two edits of one record brought together.
struct Together<'a> {
    rules: &'a TableRules,
    /// At record granularity, with another's edit: all that differs is in conflict.
    whole: bool,
    clashes: Vec<Vec<String>>,
    used: BTreeSet<&'static str>,
}

impl Together<'_> {
    fn function(&self, path: &[String]) -> Option<Function> {
        self.rules.merge.get(&written_path(path)).cloned()
    }

    fn clash(&mut self, path: &[String], theirs: Option<&Value>) -> Option<Value> {
        self.clashes.push(path.to_vec());
        theirs.cloned()
    }

    fn record(&mut self, from: Option<&Fields>, mine: &Fields, theirs: &Fields) -> Fields {
        let mut result = Fields::new();
        for name in mine.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            let began = from.map(|from| from.get(name));
            if let Some(value) = self.value(std::slice::from_ref(name), began, mine.get(name), theirs.get(name)) {
                result.insert(name.clone(), value);
            }
        }
        result
    }

    /// `began`: the outer `None` is an unknown base.
    fn value(&mut self, path: &[String], began: Option<Option<&Value>>, mine: Option<&Value>, theirs: Option<&Value>) -> Option<Value> {
        let function = self.function(path);
        if let Some(Function::Sum | Function::Append) = function {
            let Some(began) = began else {
                // Never computed on an unknown base.
                return if mine == theirs { theirs.cloned() } else { self.clash(path, theirs) };
            };
            let alone = theirs == began;
            if alone && !self.whole {
                return mine.cloned();
            }
            if said(mine) == said(began) {
                return if alone { mine } else { theirs }.cloned();
            }
            let moved = match function {
                Some(Function::Sum) => self.summed(began, mine, theirs),
                _ => self.appended(began, mine, theirs),
            };
            return match moved {
                Some(_) if alone => mine.cloned(),
                Some(value) => Some(value),
                None => self.clash(path, theirs),
            };
        }
        if mine == theirs {
            // Both sides may have moved a counter within it by as much.
            let prefix = format!("{}.", written_path(path));
            let counts =
                |(path, function): (&String, &Function)| path.starts_with(&prefix) && matches!(function, Function::Sum | Function::Append);
            let moved = function.is_none() && began.is_some_and(|began| began != mine) && self.rules.merge.iter().any(counts);
            return if moved { self.opened(path, began, mine, theirs).unwrap_or(theirs.cloned()) } else { theirs.cloned() };
        }
        if let (Some(began), false) = (began, self.whole) {
            if mine == began {
                return theirs.cloned();
            }
            if theirs == began {
                return mine.cloned();
            }
        }
        let joined = match function {
            None => self.opened(path, began, mine, theirs),
            Some(Function::Rule(_)) => None,
            Some(function) => match (said(mine), said(theirs)) {
                (Some(mine), Some(theirs)) => self.joined(&function, path, began, mine, theirs).map(Some),
                (None, None) => Some(theirs.cloned()),
                (one, other) => Some(one.or(other).cloned()),
            },
        };
        match joined {
            Some(value) => value,
            None => self.clash(path, theirs),
        }
    }

    fn summed(&mut self, began: Option<&Value>, mine: Option<&Value>, theirs: Option<&Value>) -> Option<Value> {
        let read = |value: Option<&Value>| said(value).map_or(Some(0), exactly);
        let sum = read(theirs)? + read(mine)? - read(began)?;
        self.used.insert("sum");
        Some(number(sum))
    }

    fn appended(&mut self, began: Option<&Value>, mine: Option<&Value>, theirs: Option<&Value>) -> Option<Value> {
        let list = |value: Option<&Value>| said(value).map_or(Some(Vec::new()), |value| value.as_array().cloned());
        let (began, mine, mut theirs) = (list(began)?, list(mine)?, list(theirs)?);
        if mine.len() < began.len() || mine[..began.len()] != began[..] {
            return None;
        }
        theirs.extend_from_slice(&mine[began.len()..]);
        self.used.insert("append");
        Some(Value::Array(theirs))
    }

    fn joined(
        &mut self,
        function: &Function,
        path: &[String],
        began: Option<Option<&Value>>,
        mine: &Value,
        theirs: &Value,
    ) -> Option<Value> {
        match function {
            Function::Max | Function::Min => {
                let order = match (mine, theirs) {
                    (Value::Number(_), Value::Number(_)) => exactly(mine)?.cmp(&exactly(theirs)?),
                    (Value::String(a), Value::String(b)) => {
                        let moment = |text: &String| chrono::DateTime::parse_from_rfc3339(text).ok();
                        // The same moment in two forms: either will do, as long as both orders of arrival agree.
                        match (moment(a), moment(b)) {
                            (Some(x), Some(y)) => x.cmp(&y).then_with(|| a.cmp(b)),
                            _ => a.cmp(b),
                        }
                    }
                    _ => return None,
                };
                let max = *function == Function::Max;
                self.used.insert(if max { "max" } else { "min" });
                Some(if (order == Ordering::Greater) == max { mine } else { theirs }.clone())
            }
            Function::Union { by: None } => {
                let (mine, mut all) = (mine.as_array()?, theirs.as_array()?.clone());
                for element in mine {
                    if !all.contains(element) {
                        all.push(element.clone());
                    }
                }
                self.used.insert("union");
                Some(Value::Array(all))
            }
            Function::Union { by: Some(by) } => {
                let (mine, theirs) = (mine.as_array()?.clone(), theirs.as_array()?.clone());
                let before = began.map(|began| began.and_then(Value::as_array).cloned().unwrap_or_default());
                let find = |list: &[Value], name: &str| list.iter().find(|e| element_name(e, by).as_deref() == Some(name)).cloned();
                let (mut all, mut met) = (Vec::new(), BTreeSet::new());
                for element in &theirs {
                    let name = element_name(element, by);
                    let ours = name.as_deref().filter(|name| !met.contains(*name)).and_then(|name| find(&mine, name));
                    match (&name, ours) {
                        (Some(name), Some(ours)) => {
                            let deeper = below(path, name);
                            let began = before.as_ref().map(|before| find(before, name));
                            all.extend(self.value(&deeper, began.as_ref().map(Option::as_ref), Some(&ours), Some(element)));
                        }
                        _ => all.push(element.clone()),
                    }
                    met.extend(name);
                }
                for element in &mine {
                    let there = match element_name(element, by) {
                        Some(name) => !met.insert(name),
                        None => all.contains(element),
                    };
                    if !there {
                        all.push(element.clone());
                    }
                }
                self.used.insert("union by");
                Some(Value::Array(all))
            }
            _ => panic!("{function:?} has tests of its own"),
        }
    }

    /// Objects that both sides have, by path.
    fn opened(
        &mut self,
        path: &[String],
        began: Option<Option<&Value>>,
        mine: Option<&Value>,
        theirs: Option<&Value>,
    ) -> Option<Option<Value>> {
        let inner = |key: &String| read_path(key).len() > path.len() && read_path(key)[..path.len()] == *path;
        if self.whole && !self.rules.merge.keys().any(inner) {
            return None;
        }
        let (mine, theirs) = (mine?.as_object()?, theirs?.as_object()?);
        let began = match began {
            None => None,
            Some(began) => Some(match said(began) {
                None => serde_json::Map::new(),
                Some(began) => began.as_object()?.clone(),
            }),
        };
        let mut result = serde_json::Map::new();
        for name in mine.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            let deeper = below(path, name);
            let began = began.as_ref().map(|began| began.get(name));
            if let Some(value) = self.value(&deeper, began, mine.get(name), theirs.get(name)) {
                result.insert(name.clone(), value);
            }
        }
        self.used.insert("nested");
        Some(Some(Value::Object(result)))
    }
}

impl<'a> Ruling<'a> {
    fn new(case: &'a Case) -> Ruling<'a> {
        let mut ruling = Ruling { case, above: Vec::new(), base: None, gap: false };
        for row in case.history.iter().rev() {
            let found = match &case.began {
                Began::Nothing => false,
                Began::Version(n) => row.version == *n,
                Began::Hash(data) | Began::Data(data) => !row.deleted && row.data == *data,
                Began::Position => match case.position {
                    Position::Presented { seq, .. } | Position::Remembered { seq } => row.seq <= seq,
                    Position::Never => false,
                },
            };
            // What the record was while it belonged to others is nobody else's base.
            let exact = matches!(case.began, Began::Hash(_) | Began::Data(_));
            match (found, ruling.sees(&row.scope)) {
                (true, true) => {
                    ruling.base = Some(row);
                    return ruling;
                }
                (true, false) if !exact => {
                    ruling.gap = true;
                    return ruling;
                }
                _ if matches!(case.began, Began::Version(n) if row.version < n) => {
                    ruling.gap = true;
                    return ruling;
                }
                _ => ruling.above.push(row),
            }
        }
        ruling.gap = case.cut || (!case.history.is_empty() && matches!(case.began, Began::Version(_) | Began::Hash(_)));
        ruling
    }

    fn sees(&self, scope: &str) -> bool {
        match self.case.rules.scope {
            Scope::Office => true,
            _ if self.case.role != Role::Store => true,
            Scope::Store => self.case.stores.contains(&scope),
            Scope::User => self.case.user == scope,
        }
    }

    fn scope_field(&self) -> Option<String> {
        let name = match self.case.rules.scope {
            Scope::Office => return None,
            Scope::Store => "store_id",
            Scope::User => "user_id",
        };
        Some(self.case.rules.scope_field.clone().unwrap_or(name.into()))
    }

    fn deletes(&self) -> bool {
        matches!(self.case.asked, Asked::Delete)
    }

    fn exact(&self) -> bool {
        matches!(self.case.began, Began::Hash(_) | Began::Data(_))
    }

    /// Others' versions. Beside a base that is taken exactly as given the device's own count as others'.
    fn foreign(&self, row: &Row) -> bool {
        self.exact() || !row.own
    }

    fn measured(&self) -> Measured {
        let case = self.case;
        let began_at_its_birth = matches!(case.began, Began::Nothing | Began::Position) && self.base.is_none();
        let forgotten = began_at_its_birth && self.above.last().is_some_and(|first| first.received < case.horizon);
        let gap = (self.gap || forgotten) && !matches!(case.began, Began::Data(_));
        let others = gap || self.above.iter().any(|row| self.foreign(row));
        let mut measured = Measured { from: None, nothing: false, others, gap, unsure: false, late: false };
        if case.history.is_empty() {
            return measured;
        }
        // A position says what the edit began from only where all that came after is this device's own, stored as sent.
        if matches!(case.began, Began::Position) && !self.deletes() {
            let (at, finished) = match case.position {
                Position::Presented { seq, finished } => (seq, finished),
                Position::Remembered { seq } => (seq, true),
                Position::Never => (0, true),
            };
            let lost_since = case.said.as_ref().is_some_and(|said| said.seq > at && !said.clean);
            measured.unsure = !finished || lost_since || self.above.iter().any(|row| !row.own || !row.clean);
            if measured.unsure {
                return measured;
            }
        }
        let began = match case.began {
            Began::Version(n) => n,
            _ => self.base.map_or(0, |row| row.version),
        };
        // Begun from nothing over what another device made: having sent the same once does not make it one's own.
        let theirs = |said: &&Said| said.clean && self.above.iter().any(|row| row.version == said.version && !row.own);
        let later = case.said.as_ref().filter(|said| !self.exact() && said.version > began);
        let later = later.filter(|said| !(matches!(case.began, Began::Nothing) && theirs(said)));
        measured.late = !case.named && matches!((case.when, later), (Some(when), Some(said)) if when < said.when);
        if self.deletes() {
            return measured;
        }
        let own_word = later.and_then(|said| said.data.clone());
        measured.from = match &case.began {
            Began::Data(data) => Some(data.clone()),
            Began::Hash(_) => self.base.map(|row| row.data.clone()),
            _ if own_word.is_some() => own_word,
            _ if self.base.is_some() => self.base.map(|row| row.data.clone()),
            _ if gap => None,
            _ => {
                measured.nothing = true;
                Some(Fields::new())
            }
        };
        measured
    }

    fn value_at(&self, data: &Fields, path: &[String]) -> Option<Value> {
        let mut value = data.get(&path[0])?.clone();
        for (place, name) in path.iter().enumerate().skip(1) {
            let next = match (&value, self.case.rules.merge.get(&written_path(&path[..place]))) {
                (Value::Array(list), Some(Function::Union { by: Some(by) })) => {
                    list.iter().find(|element| element_name(element, by).as_ref() == Some(name)).cloned()
                }
                (Value::Object(object), _) => object.get(name).cloned(),
                _ => None,
            };
            value = next?;
        }
        Some(value)
    }

    /// `data` with the value at a path as `from` has it.
    fn with(&self, data: &Fields, path: &[String], from: &Fields) -> Fields {
        let mut data = data.clone();
        let value = self.placed(&path[..1], data.get(&path[0]), from.get(&path[0]), &path[1..]);
        match value {
            Some(value) => data.insert(path[0].clone(), value),
            None => data.remove(&path[0]),
        };
        data
    }

    fn placed(&self, walked: &[String], into: Option<&Value>, from: Option<&Value>, rest: &[String]) -> Option<Value> {
        let Some(name) = rest.first() else { return from.cloned() };
        let deeper = below(walked, name);
        match (into, from) {
            (Some(Value::Object(into)), Some(Value::Object(from))) => {
                let mut object = into.clone();
                match self.placed(&deeper, into.get(name), from.get(name), &rest[1..]) {
                    Some(value) => object.insert(name.clone(), value),
                    None => object.remove(name),
                };
                Some(Value::Object(object))
            }
            (Some(Value::Array(into)), Some(Value::Array(from))) => {
                let Some(Function::Union { by: Some(by) }) = self.case.rules.merge.get(&written_path(walked)) else {
                    return Some(Value::Array(from.clone()));
                };
                let find = |list: &[Value]| list.iter().position(|element| element_name(element, by).as_ref() == Some(name));
                let (mut list, place, other) = (into.clone(), find(into), find(from));
                let value = self.placed(&deeper, place.map(|at| &into[at]), other.map(|at| &from[at]), &rest[1..]);
                match (place, value) {
                    (Some(at), Some(value)) => list[at] = value,
                    (Some(at), None) => drop(list.remove(at)),
                    (None, Some(value)) => list.push(value),
                    (None, None) => {}
                }
                Some(Value::Array(list))
            }
            _ => from.cloned(),
        }
    }

    /// The rule for a path: its own, that of something it lies in, or the table's.
    fn rule(&self, path: &[String]) -> Rule {
        for length in (1..=path.len()).rev() {
            if let Some(Function::Rule(rule)) = self.case.rules.merge.get(&written_path(&path[..length])) {
                return *rule;
            }
        }
        self.case.rules.rule
    }

    fn winner(&self, rule: Rule, they: &Row) -> &'static str {
        let rank = |role: Role| matches!(role, Role::Manager | Role::Admin);
        match rule {
            Rule::ManagerWins if rank(self.case.role) != rank(they.role) => {
                if rank(self.case.role) {
                    "client"
                } else {
                    "server"
                }
            }
            Rule::ManagerWins | Rule::LatestWins if self.case.edited > they.edited => "client",
            Rule::ManagerWins | Rule::LatestWins | Rule::ServerWins => "server",
            Rule::ClientWins => "client",
            Rule::Manual => "none",
            Rule::Script => panic!("scripts have tests of their own"),
        }
    }

    /// Whom a field is contested with.
    fn rival(&self, path: &[String], known: bool, current: &'a Row) -> &'a Row {
        let foreign: Vec<&Row> = self.above.iter().copied().filter(|row| self.foreign(row)).collect();
        if self.case.rules.granularity == Granularity::Record || !known {
            // Of whole records: the strongest.
            let ranked = self.rule(path) == Rule::ManagerWins;
            let strength = |row: &&Row| (ranked && matches!(row.role, Role::Manager | Role::Admin), row.edited);
            return foreign.into_iter().max_by_key(strength).unwrap_or(current);
        }
        // Of one field: whoever of the others changed it last.
        for (place, row) in self.above.iter().enumerate() {
            let before = self.above.get(place + 1).copied().or(self.base);
            let changed = match before {
                None => true,
                Some(before) => before.deleted != row.deleted || self.value_at(&before.data, path) != self.value_at(&row.data, path),
            };
            if changed && self.foreign(row) {
                return row;
            }
        }
        current
    }

    fn missing(&self, data: &Fields) -> bool {
        self.case.rules.required.iter().any(|name| said(data.get(name)).is_none())
    }

    /// What the change asks for: the content, its scope, and whether that was filled in.
    fn asked_for(&self, measured: &Measured, current: Option<&Row>) -> Result<(Fields, String, bool), &'static str> {
        let mut to = match &self.case.asked {
            Asked::Delete => {
                let own = match self.case.rules.scope {
                    Scope::Office => Some(""),
                    Scope::User => Some(self.case.user),
                    Scope::Store => self.case.stores.first().copied().filter(|_| self.case.stores.len() == 1),
                };
                let scope = current.map_or(own.unwrap_or_default(), |row| &row.scope);
                return Ok((Fields::new(), scope.to_owned(), false));
            }
            Asked::Whole(data) => data.clone(),
            Asked::Patch(patch) => {
                let over = measured.from.as_ref().filter(|_| !measured.nothing).or(current.map(|row| &row.data));
                patched(over.unwrap_or(&Fields::new()), patch)
            }
        };
        for (path, function) in &self.case.rules.merge {
            let value = self.value_at(&to, &read_path(path));
            if *function == Function::Sum && value.is_some_and(|value| !value.is_null() && !value.is_number()) {
                return Err("invalid");
            }
        }
        let Some(field) = self.scope_field() else { return Ok((to, String::new(), false)) };
        if let Some(value) = said(to.get(&field)) {
            let letters = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
            let scope = value.as_str().filter(letters).ok_or("invalid")?.to_owned();
            return Ok((to, scope, false));
        }
        let kept = current.map(|row| row.scope.clone()).filter(|scope| !scope.is_empty());
        let own = match self.case.rules.scope {
            Scope::User => Some(self.case.user),
            _ if self.case.role != Role::Store || self.case.stores.len() != 1 => None,
            _ => Some(self.case.stores[0]),
        };
        let scope = kept.or(own.map(str::to_owned)).ok_or("store_required")?;
        to.insert(field, Value::String(scope.clone()));
        Ok((to, scope, true))
    }

    /// Did the change move something that is counted from the base?
    fn moved(&self, from: Option<&Fields>, to: &Fields, current: &Row) -> bool {
        let counted = self.case.rules.merge.iter().filter(|(_, function)| matches!(function, Function::Sum | Function::Append));
        let mut paths = counted.map(|(path, _)| read_path(path));
        paths.any(|path| {
            let (mine, theirs) = (self.value_at(to, &path), self.value_at(&current.data, &path));
            let same = |other: Option<Value>| said(mine.as_ref()) == said(other.as_ref());
            match (from, &self.case.asked) {
                (Some(from), _) => !same(self.value_at(from, &path)),
                (None, Asked::Patch(patch)) => self.value_at(patch, &path).is_some() || !same(theirs),
                (None, _) => said(mine.as_ref()).is_some() || !same(theirs),
            }
        })
    }

    fn decide(&self, used: &mut BTreeSet<&'static str>) -> Outcome {
        let (case, rules) = (self.case, &self.case.rules);
        let Some(current) = case.history.last() else { return self.no_record() };
        let measured = self.measured();
        if !self.sees(&current.scope) {
            return self.out_of_view(&measured);
        }
        let (to, scope, filled) = match self.asked_for(&measured, Some(current)) {
            Ok(asked) => asked,
            Err(refusal) => return Outcome::Rejected(refusal),
        };
        if !self.sees(&scope) {
            return Outcome::Rejected("forbidden");
        }
        let deletes = self.deletes();
        if !deletes && self.missing(&to) {
            return Outcome::Rejected("invalid");
        }
        let write = |data: Fields, deleted: bool| {
            let named = self.scope_field().filter(|_| !deleted).and_then(|field| data.get(&field)?.as_str().map(str::to_owned));
            let sent = (!deleted && data != to).then(|| to.clone());
            Written { scope: named.unwrap_or(scope.clone()), deleted, filled, sent, data }
        };
        let clash = |why, rule: Rule, winner, fields, written| Outcome::Conflict {
            why,
            rule: rule.word(),
            winner,
            fields,
            written,
            base: measured.from.clone(),
            client: (!deletes).then(|| to.clone()),
        };
        let star = |winner| vec![("*".to_owned(), winner)];
        let same = if deletes { current.deleted } else { !current.deleted && to == current.data };

        if rules.append_only {
            return if same && !deletes { Outcome::Noop } else { Outcome::Rejected("immutable") };
        }
        if deletes && measured.gap {
            return clash("gap", rules.rule, "none", star("none"), None);
        }
        let beaten = |why| {
            let names: BTreeSet<&String> = to.keys().chain(current.data.keys()).collect();
            let differing = names.into_iter().filter(|name| to.get(*name) != current.data.get(*name));
            let fields: Vec<(String, &str)> = differing.map(|name| (written_path(std::slice::from_ref(name)), "server")).collect();
            let fields = if fields.is_empty() || deletes || current.deleted { star("server") } else { fields };
            clash(why, rules.rule, "server", fields, None)
        };
        if measured.late && !(deletes && same) {
            return beaten("late");
        }
        let known = measured.from.is_some();
        // A patch over nothing began from nothing in what it names, and left alone what it does not.
        let from = match &case.asked {
            Asked::Patch(patch) if measured.nothing => Some(unnamed(&current.data, patch)),
            _ => measured.from.clone(),
        };
        let moved = !deletes && self.moved(from.as_ref(), &to, current);
        if same && !(moved && (measured.others || !known)) {
            return Outcome::Noop;
        }
        if rules.stale == Some(Stale::ServerWins) && !deletes && !known && case.edited < current.edited {
            return beaten("stale");
        }
        if moved && (measured.gap || !known) {
            return clash("gap", rules.rule, "none", star("none"), None);
        }
        let fits = |data: &Fields| *data == current.data || *data == to || !self.missing(data);

        if deletes || current.deleted {
            let on_the_tombstone = current.deleted && self.base.is_some_and(|base| base.seq == current.seq);
            if (!measured.others || on_the_tombstone) && !measured.unsure {
                return Outcome::Applied(if deletes { write(current.data.clone(), true) } else { write(to.clone(), false) });
            }
            let winner = self.winner(rules.rule, current);
            let written = match (winner, deletes) {
                ("client", true) => Some(write(current.data.clone(), true)),
                ("client", false) => {
                    let data = self.revived(from.as_ref(), &to, current, used);
                    if !fits(&data) {
                        return clash("unfit", rules.rule, "none", star("none"), None);
                    }
                    used.insert("revive");
                    Some(write(data, false))
                }
                _ => None,
            };
            return clash("rule", rules.rule, winner, star(winner), written);
        }

        let whole = rules.granularity == Granularity::Record && measured.others;
        let mut together = Together { rules, whole, clashes: Vec::new(), used: BTreeSet::new() };
        let mut result = together.record(from.as_ref(), &to, &current.data);
        used.extend(together.used);
        let clashes = together.clashes;
        if clashes.is_empty() {
            return match () {
                () if !fits(&result) => clash("unfit", rules.rule, "none", star("none"), None),
                () if result == current.data => Outcome::Noop,
                () if result == to => Outcome::Applied(write(result, false)),
                () => Outcome::Merged(write(result, false)),
            };
        }
        // Whose record it is, is nothing that a store's device decides.
        if case.role == Role::Store && self.scope_field().is_some_and(|field| clashes.contains(&vec![field])) {
            return Outcome::Rejected("forbidden");
        }
        let mut fields = Vec::new();
        for path in &clashes {
            let winner = self.winner(self.rule(path), self.rival(path, known, current));
            if winner == "client" {
                result = self.with(&result, path, &to);
            }
            fields.push((written_path(path), winner));
        }
        let asked: Vec<Rule> = clashes.iter().map(|path| self.rule(path)).collect();
        let rule = if asked.iter().all(|rule| *rule == asked[0]) { asked[0] } else { rules.rule };
        if !fits(&result) {
            let open = fields.into_iter().map(|(path, _)| (path, "none")).collect();
            return clash("unfit", rules.rule, "none", open, None);
        }
        let winner = match () {
            () if fields.iter().any(|(_, winner)| *winner == "none") => "none",
            () if fields.iter().all(|(_, winner)| *winner == "client") => "client",
            () => "server",
        };
        let written = (result != current.data).then(|| write(result, false));
        clash("rule", rule, winner, fields, written)
    }

    fn no_record(&self) -> Outcome {
        let case = self.case;
        if self.deletes() {
            return Outcome::Noop;
        }
        let (to, scope, filled) = match self.asked_for(&self.measured(), None) {
            Ok(asked) => asked,
            Err(refusal) => return Outcome::Rejected(refusal),
        };
        if !self.sees(&scope) {
            return Outcome::Rejected("forbidden");
        }
        if self.missing(&to) {
            return Outcome::Rejected("invalid");
        }
        if case.purged || !matches!(case.began, Began::Nothing | Began::Position) {
            return Outcome::Rejected("gone");
        }
        Outcome::Applied(Written { data: to, scope, deleted: false, filled, sent: None })
    }

    /// Only who saw the record since, or when the edit began, is heard.
    fn out_of_view(&self, measured: &Measured) -> Outcome {
        let Some(newest) = self.above.iter().copied().chain(self.base).find(|row| self.sees(&row.scope)) else {
            let free = Case { history: Vec::new(), cut: false, ..self.case.clone() };
            return match Ruling::new(&free).no_record() {
                Outcome::Rejected(refusal) if refusal != "gone" => Outcome::Rejected(refusal),
                _ => Outcome::Rejected("forbidden"),
            };
        };
        Outcome::Conflict {
            why: "left_view",
            rule: self.case.rules.rule.word(),
            winner: "none",
            fields: vec![("*".into(), "none")],
            written: None,
            base: measured.from.clone(),
            client: match &self.case.asked {
                Asked::Whole(data) => Some(data.clone()),
                Asked::Patch(patch) => Some(patched(measured.from.as_ref().unwrap_or(&newest.data), patch)),
                Asked::Delete => None,
            },
        }
    }

    /// An edit that beats a delete: laid over the last live content, the client's value wherever both changed something. The
    /// record stays with whom it belonged to, unless the edit is what moves it.
    fn revived(&self, from: Option<&Fields>, to: &Fields, current: &Row, used: &mut BTreeSet<&'static str>) -> Fields {
        let field = self.scope_field();
        let mut data = match from {
            None => to.clone(),
            Some(from) => {
                let rules = &self.case.rules;
                let whole = rules.granularity == Granularity::Record;
                let mut together = Together { rules, whole, clashes: Vec::new(), used: BTreeSet::new() };
                let mut data = together.record(Some(from), to, &current.data);
                for path in &together.clashes {
                    data = self.with(&data, path, to);
                }
                used.extend(together.used);
                data
            }
        };
        if let Some((field, scope)) = field.and_then(|field| Some((field.clone(), said(current.data.get(&field))?)))
            && from.is_none_or(|from| from.get(&field) == to.get(&field))
        {
            data.insert(field, scope.clone());
        }
        data
    }
}

/// RFC 7396.
fn patched(data: &Fields, patch: &Fields) -> Fields {
    fn over(value: Option<&Value>, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut object = value.and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, change) in patch {
            if change.is_null() {
                object.remove(name);
            } else {
                let value = over(object.get(name), change);
                object.insert(name.clone(), value);
            }
        }
        Value::Object(object)
    }
    let mut data = data.clone();
    for (name, change) in patch {
        match change {
            Value::Null => data.remove(name),
            change => data.insert(name.clone(), over(data.get(name), change)),
        };
    }
    data
}

/// What a patch does not name.
fn unnamed(data: &Fields, patch: &Fields) -> Fields {
    fn left(value: &Value, patch: Option<&Value>) -> Option<Value> {
        match (value, patch) {
            (value, None) => Some(value.clone()),
            (Value::Object(object), Some(Value::Object(patch))) => {
                let rest = object.iter().filter_map(|(name, value)| Some((name.clone(), left(value, patch.get(name))?)));
                Some(Value::Object(rest.collect()))
            }
            _ => None,
        }
    }
    data.iter().filter_map(|(name, value)| Some((name.clone(), left(value, patch.get(name))?))).collect()
}

/// The decision, and what was used on the way.
pub fn decide(case: &Case) -> (Outcome, BTreeSet<&'static str>) {
    let mut used = BTreeSet::new();
    (Ruling::new(case).decide(&mut used), used)
}
