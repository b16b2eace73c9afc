//! The office's decisions against a second writing-down of the same rules, over thousands of random changes.
//!
//! What stands here was written after the protocol and shares nothing with `domain::decide`: whole records, no merge functions,
//! one feed. Every answer (status, winner, reason, fields, version) and every stored record has to be the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use backroom::domain::cursor::Cursor;
use backroom::domain::record::Hash;
use backroom::sync::push;
use serde_json::{Value, json};

use crate::support::Appliance;

const RULES: &str = r#"
[tables.manager_wins]
rule = "manager_wins"
granularity = "record"
[tables.latest_wins]
rule = "latest_wins"
granularity = "record"
[tables.server_wins]
rule = "server_wins"
granularity = "record"
[tables.client_wins]
rule = "client_wins"
granularity = "record"
[tables.manual]
rule = "manual"
granularity = "record"
"#;

const TABLES: [&str; 5] = ["manager_wins", "latest_wins", "server_wins", "client_wins", "manual"];

/// A record's fields.
type Fields = BTreeMap<String, i64>;

#[derive(Clone, Debug)]
struct Row {
    seq: i64,
    version: i64,
    device: usize,
    edited: i64,
    deleted: bool,
    fields: Fields,
    /// Stored as it was sent.
    clean: bool,
}

/// What a device last said of a record.
#[derive(Clone, Debug)]
struct Said {
    /// `None`: that it be deleted.
    fields: Option<Fields>,
    /// By its own clock.
    when: i64,
    version: i64,
    seq: i64,
    clean: bool,
}

#[derive(Clone, Debug)]
enum From {
    Nothing,
    Version(i64),
    Hash(Fields),
    Data(Fields),
    Position,
}

#[derive(Clone, Debug)]
enum What {
    Whole(Fields),
    Patch(BTreeMap<String, Option<i64>>),
    Delete,
}

#[derive(Clone, Debug)]
struct Change {
    key: (usize, usize),
    from: From,
    what: What,
    named: bool,
    /// By the device's clock, and on the server's.
    when: Option<i64>,
    edited: i64,
}

/// Where the device stood, as the push says.
#[derive(Clone, Copy)]
struct Position {
    seq: i64,
    finished: bool,
}

/// Fields that wait, and whether the whole could not be measured.
type Waiting = (Vec<String>, bool);

#[derive(Default)]
struct Oracle {
    rows: HashMap<(usize, usize), Vec<Row>>,
    said: HashMap<(usize, (usize, usize)), Said>,
    /// What a device has waiting on a record.
    waiting: HashMap<(usize, (usize, usize)), Waiting>,
    head: i64,
    managers: HashSet<usize>,
}

/// What the answer must say: status or winner, reason, fields, version.
type Answer = (String, String, Vec<String>, Option<i64>);

impl Oracle {
    fn rank(&self, device: usize) -> i64 {
        i64::from(self.managers.contains(&device))
    }

    /// The rule's word between the change and another side.
    fn winner(&self, rule: &str, mine: (i64, i64), theirs: (i64, i64)) -> &'static str {
        match rule {
            "manager_wins" if mine.1 > theirs.1 => "client",
            "manager_wins" if mine.1 < theirs.1 => "server",
            "manager_wins" | "latest_wins" => {
                if mine.0 > theirs.0 {
                    "client"
                } else {
                    "server"
                }
            }
            "server_wins" => "server",
            "client_wins" => "client",
            _ => "none",
        }
    }

    fn put(&mut self, device: usize, change: &Change, fields: Fields, deleted: bool, clean: bool) {
        self.head += 1;
        let rows = self.rows.entry(change.key).or_default();
        let version = rows.len() as i64 + 1;
        rows.push(Row { seq: self.head, version, device, edited: change.edited, deleted, fields, clean });
    }

    fn decide(&mut self, device: usize, change: &Change, position: Position, now: i64) -> Answer {
        let rows = self.rows.get(&change.key).cloned().unwrap_or_default();
        let plain = |status: &str, version: Option<i64>| (status.to_owned(), String::new(), Vec::new(), version);
        let deletes = matches!(change.what, What::Delete);
        let Some(current) = rows.last().cloned() else {
            let fields = match &change.what {
                What::Delete => return plain("noop", None),
                What::Whole(fields) => fields.clone(),
                What::Patch(patch) => patched(&Fields::new(), patch),
            };
            return match change.from {
                From::Nothing | From::Position => {
                    self.put(device, change, fields.clone(), false, true);
                    self.say(device, change, Some(fields), now, true);
                    plain("applied", Some(1))
                }
                _ => plain("gone", None),
            };
        };

        // The version that the edit began from, and the newer ones.
        let base = rows.iter().rposition(|row| match &change.from {
            From::Nothing => false,
            From::Version(n) => row.version == *n,
            From::Hash(fields) | From::Data(fields) => !row.deleted && row.fields == *fields,
            From::Position => row.seq <= position.seq,
        });
        let above = &rows[base.map_or(0, |at| at + 1)..];
        let exact = matches!(change.from, From::Hash(_) | From::Data(_));
        let gap = base.is_none() && matches!(change.from, From::Version(_) | From::Hash(_));
        // A version from the future is above nothing.
        let above = if matches!(change.from, From::Version(n) if n > current.version) { &[] } else { above };
        let others = gap || above.iter().any(|row| exact || row.device != device);
        let said = self.said.get(&(device, change.key)).cloned();
        let unknown = !deletes
            && matches!(change.from, From::Position)
            && (!position.finished
                || above.iter().any(|row| row.device != device || !row.clean)
                || said.as_ref().is_some_and(|said| said.seq > position.seq && !said.clean));

        let began = match change.from {
            From::Version(n) => n,
            _ => base.map_or(0, |at| rows[at].version),
        };
        // Begun from nothing over what another device made: having sent the same once does not make it one's own.
        let theirs = |said: &Said| said.clean && above.iter().any(|row| row.version == said.version && row.device != device);
        let newer = said
            .filter(|said| !exact && !unknown && said.version > began)
            .filter(|said| !(matches!(change.from, From::Nothing) && theirs(said)));
        let frm: Option<Fields> = match &change.from {
            _ if unknown => None,
            From::Data(fields) => Some(fields.clone()),
            From::Hash(_) => base.map(|at| rows[at].fields.clone()),
            _ => match (newer.as_ref().and_then(|said| said.fields.clone()), base) {
                (Some(fields), _) => Some(fields),
                (None, Some(at)) => Some(rows[at].fields.clone()),
                (None, None) if gap => None,
                (None, None) => Some(Fields::new()),
            },
        };
        let knows_something =
            base.is_some() || matches!(change.from, From::Data(_)) || newer.as_ref().is_some_and(|said| said.fields.is_some());
        let to = match &change.what {
            What::Delete => Fields::new(),
            What::Whole(fields) => fields.clone(),
            What::Patch(patch) => patched(frm.as_ref().filter(|_| knows_something).unwrap_or(&current.fields), patch),
        };
        let asked = (!deletes).then(|| to.clone());
        let whole = || vec!["*".to_owned()];
        let differing = || -> Vec<String> {
            let names: std::collections::BTreeSet<&String> = to.keys().chain(current.fields.keys()).collect();
            names.into_iter().filter(|name| to.get(*name) != current.fields.get(*name)).cloned().collect()
        };
        let conflict =
            |winner: &str, why: &str, fields: Vec<String>, version: i64| (winner.to_owned(), why.to_owned(), fields, Some(version));
        let same = if deletes { current.deleted } else { !current.deleted && to == current.fields };

        if deletes && gap {
            self.say(device, change, asked, now, false);
            let fields = self.wait(device, change.key, whole(), None);
            return conflict("none", "gap", fields, current.version);
        }
        let late = newer.as_ref().is_some_and(|said| !change.named && change.when.is_some_and(|when| when < said.when));
        if late && !(deletes && same) {
            let fields = differing();
            let fields = if fields.is_empty() || deletes || current.deleted { whole() } else { fields };
            return conflict("server", "late", fields, current.version);
        }
        if same {
            self.say(device, change, asked, now, true);
            return plain("noop", Some(current.version));
        }

        let rule = TABLES[change.key.0];
        let mine = (change.edited, self.rank(device));
        if deletes || current.deleted {
            let fields = if deletes { current.fields.clone() } else { to.clone() };
            let on_the_tombstone = current.deleted && base == Some(rows.len() - 1);
            if (!others || on_the_tombstone) && !unknown {
                self.put(device, change, fields, deletes, true);
                self.say(device, change, asked, now, true);
                return plain("applied", Some(current.version + 1));
            }
            let winner = self.winner(rule, mine, (current.edited, self.rank(current.device)));
            if winner == "client" {
                self.put(device, change, fields, deletes, true);
            }
            self.say(device, change, asked, now, winner == "client");
            if winner == "none" {
                self.waiting.insert((device, change.key), (whole(), false));
            }
            return conflict(winner, "rule", whole(), current.version + i64::from(winner == "client"));
        }

        let (mut result, mut clashes) = (current.fields.clone(), Vec::new());
        for name in differing() {
            let (ours, theirs) = (to.get(&name), current.fields.get(&name));
            match &frm {
                Some(frm) if !others => {
                    if ours == frm.get(&name) {
                    } else if theirs == frm.get(&name) {
                        set(&mut result, &name, ours);
                    } else {
                        clashes.push(name);
                    }
                }
                _ => clashes.push(name),
            }
        }
        if clashes.is_empty() {
            if result == current.fields {
                self.say(device, change, asked, now, to == current.fields);
                return plain("noop", Some(current.version));
            }
            let clean = result == to;
            self.put(device, change, result, false, clean);
            self.say(device, change, asked, now, clean);
            return plain(if clean { "applied" } else { "merged" }, Some(current.version + 1));
        }
        let strength = |row: &&Row| (if rule == "manager_wins" { self.rank(row.device) } else { 0 }, row.edited);
        let rival = above.iter().filter(|row| exact || row.device != device).max_by_key(strength).unwrap_or(&current);
        let winner = self.winner(rule, mine, (rival.edited, self.rank(rival.device)));
        if winner == "client" {
            for name in &clashes {
                set(&mut result, name, to.get(name));
            }
        }
        // What is in conflict stays as it is; what is not is taken all the same.
        let written = result != current.fields;
        let fields = if winner == "none" { self.wait(device, change.key, clashes, Some((&to, &result))) } else { clashes };
        if written {
            let clean = result == to;
            self.put(device, change, result, false, clean);
            self.say(device, change, asked, now, clean);
        } else {
            self.say(device, change, asked, now, false);
        }
        conflict(winner, "rule", fields, current.version + i64::from(written))
    }

    /// A change that waits joins what its device has waiting on the record: what was in conflict stays so, unless both sides
    /// say the same there by now. `None`: the change waits as a whole, since it could not be measured.
    fn wait(&mut self, device: usize, key: (usize, usize), fields: Vec<String>, sides: Option<(&Fields, &Fields)>) -> Vec<String> {
        let before = self.waiting.get(&(device, key)).cloned().unwrap_or_default();
        let mut all: BTreeSet<String> = fields.into_iter().collect();
        all.extend(before.0.into_iter().filter(|name| match (name.as_str(), sides) {
            ("*", _) => before.1,
            (name, Some((to, result))) => to.get(name) != result.get(name),
            (_, None) => false,
        }));
        let all: Vec<String> = if all.contains("*") { vec!["*".into()] } else { all.into_iter().collect() };
        self.waiting.insert((device, key), (all.clone(), sides.is_none()));
        all
    }

    fn say(&mut self, device: usize, change: &Change, fields: Option<Fields>, now: i64, clean: bool) {
        let version = self.rows.get(&change.key).map_or(0, |rows| rows.len() as i64);
        let said = Said { fields, when: change.when.unwrap_or(now), version, seq: self.head, clean };
        self.said.insert((device, change.key), said);
    }
}

fn set(fields: &mut Fields, name: &str, value: Option<&i64>) {
    match value {
        Some(value) => drop(fields.insert(name.to_owned(), *value)),
        None => drop(fields.remove(name)),
    }
}

fn patched(fields: &Fields, patch: &BTreeMap<String, Option<i64>>) -> Fields {
    let mut fields = fields.clone();
    for (name, value) in patch {
        set(&mut fields, name, value.as_ref());
    }
    fields
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    /// Few values in few fields, so that contents meet.
    fn fields(&mut self) -> Fields {
        let mut fields = Fields::new();
        for name in ["a", "b", "c"] {
            if self.roll(4) > 0 {
                fields.insert(name.into(), self.roll(3) as i64);
            }
        }
        fields
    }

    fn change(&mut self, oracle: &Oracle, device: usize, now: i64) -> Change {
        let key = (self.roll(TABLES.len()), self.roll(100));
        let rows = oracle.rows.get(&key).map_or(&[][..], Vec::as_slice);
        let some = |dice: &mut Dice| rows.get(rows.len().saturating_sub(1 + dice.roll(3))).map(|row| row.fields.clone());
        let from = match self.roll(10) {
            0 => From::Nothing,
            1 => From::Hash(some(self).unwrap_or_default()),
            2 => From::Data(if self.roll(2) == 0 { some(self).unwrap_or_default() } else { self.fields() }),
            3 => From::Version(rows.len() as i64 + 1),
            4 | 5 => From::Position,
            _ => From::Version((rows.len() as i64 - self.roll(4) as i64).max(1)),
        };
        let what = match self.roll(8) {
            0 | 1 => What::Delete,
            2 => {
                let names: Vec<&str> = ["a", "b", "d"].into_iter().filter(|_| self.roll(2) == 0).collect();
                What::Patch(names.into_iter().map(|name| (name.to_owned(), [None, Some(1), Some(7)][self.roll(3)])).collect())
            }
            _ => What::Whole(self.fields()),
        };
        // Ten seconds a step within the last hour; each skewed device has seconds of its own, so that no two of them are
        // closer than the time that a push takes. The others' times may be equal to the microsecond.
        let edited = now - 3_600_000_000 + 10_000_000 * self.roll(300) as i64 + [0, 0, 3_000_000, 6_000_000][device];
        let when = (self.roll(6) > 0).then(|| edited + SKEWS[device]);
        Change { key, from, what, named: self.roll(2) == 0, when, edited: if when.is_some() { edited } else { i64::MAX } }
    }
}

/// Clocks, in microseconds: two right ones, one two hours ahead, one five behind.
const SKEWS: [i64; 4] = [0, 0, 7_200_000_000, -18_000_000_000];

fn operation(change: &Change, op: usize) -> Value {
    let mut body = json!({ "table": TABLES[change.key.0], "id": format!("r{}", change.key.1) });
    if change.named {
        body["op_id"] = json!(format!("op{op}"));
    }
    if let Some(when) = change.when {
        body["updated_at"] = json!(backroom::domain::clock::text(when));
    }
    match &change.from {
        From::Nothing => body["base"] = Value::Null,
        From::Version(n) => body["base"] = json!({ "version": n }),
        From::Hash(fields) => body["base"] = json!({ "hash": Hash::of(serde_json::to_string(fields).unwrap().as_bytes()).to_string() }),
        From::Data(fields) => body["base"] = json!({ "data": fields }),
        From::Position => {}
    }
    match &change.what {
        What::Delete => body["op"] = json!("delete"),
        What::Whole(fields) => (body["op"], body["data"]) = (json!("update"), json!(fields)),
        What::Patch(patch) => (body["op"], body["patch"]) = (json!("update"), json!(patch)),
    }
    body
}

/// What an answer says of one record.
fn read(answer: &Value, table: &str, id: &str) -> Answer {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |list: &Value, name: &str| list.as_array().into_iter().flatten().find(|entry| entry[name] == id).cloned();
    let clashes: Vec<&Value> = answer["conflicts"].as_array().unwrap().iter().filter(|entry| entry["table"] == table).collect();
    if let Some(entry) = of(&answer["applied"][table], "id") {
        return (text(&entry["status"]), String::new(), Vec::new(), entry["version"].as_i64());
    }
    if let Some(entry) = of(&json!(clashes), "record_id") {
        let fields = entry["fields"].as_array().unwrap().iter().map(text).collect();
        return (text(&entry["winner"]), text(&entry["reason"]), fields, entry["version"].as_i64());
    }
    let refused = answer["rejected"].as_array().unwrap().iter().find(|entry| entry["table"] == table && entry["record_id"] == id);
    (text(&refused.unwrap_or_else(|| panic!("{table}/{id} has no answer: {answer}"))["code"]), String::new(), Vec::new(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_random_changes_are_decided_as_the_rules_say() {
    let (mut decided, mut kinds) = (0, BTreeMap::<String, usize>::new());
    for seed in 0..4 {
        let office = Appliance::with(RULES).await;
        let mut oracle = Oracle { managers: [1].into(), ..Oracle::default() };
        for name in ["store0", "manager1", "store2", "store3"] {
            let role = if name == "manager1" { backroom::domain::actor::Role::Manager } else { backroom::domain::actor::Role::Store };
            office.someone(name, role, &["A"]).await;
        }
        let (mut dice, mut known) = (Dice(seed), HashSet::new());
        for step in 0..400 {
            let (who, now, head) = (dice.roll(4), office.clock.now(), oracle.head);
            let unfinished = dice.roll(12) == 0;
            let seq = (head - dice.roll(200) as i64).max(0);
            // Store 0 never pulled and names no position.
            let position = if who == 0 { Position { seq: 0, finished: true } } else { Position { seq, finished: !unfinished } };
            let mut changes: Vec<(Change, Value)> = Vec::new();
            for place in 0..12 {
                let mut change = dice.change(&oracle, who, now);
                if change.edited == i64::MAX {
                    change.edited = now;
                }
                let body = operation(&change, step * 100 + place);
                // One change a record in a push, to find its answer; and the same again without a name would be a retry, which
                // is another story.
                let twice = changes.iter().any(|(other, _)| other.key == change.key);
                if !twice && (change.named || known.insert((who, body.to_string()))) {
                    changes.push((change, body));
                }
            }
            let directory = office.app.store.accounts.now();
            let name = ["store0-1", "manager1-1", "store2-1", "store3-1"][who];
            let device = directory.device(&backroom::domain::ids::DeviceId::parse(name).unwrap()).unwrap().clone();
            let mut request = json!({ "operations": changes.iter().map(|(_, body)| body).collect::<Vec<_>>() });
            if who > 0 {
                let (epoch, view) = {
                    let state = office.app.store.live.read();
                    assert_eq!(state.head, head);
                    (state.epoch, state.view + device.view)
                };
                let cursor = Cursor { epoch, seq, view, tables: 0, start: unfinished.then_some(head) };
                request["cursor"] = json!(cursor.text());
            }
            if SKEWS[who] != 0 {
                request["timestamp"] = json!(backroom::domain::clock::text(now + SKEWS[who]));
            }
            let pushed = push::push(&office.app, &device, request.to_string().into(), "story").await.unwrap();
            let answer: Value = serde_json::from_slice(&pushed.body).unwrap();
            for (change, body) in changes {
                let before = oracle.rows.get(&change.key).cloned();
                let expected = oracle.decide(who, &change, position, now);
                let got = read(&answer, TABLES[change.key.0], &format!("r{}", change.key.1));
                assert_eq!(
                    got, expected,
                    "seed {seed} step {step} by {name} at {}/{}: {body}\n{before:#?}",
                    position.seq, position.finished
                );
                *kinds.entry(format!("{} {}", expected.0, expected.1)).or_default() += 1;
                decided += 1;
            }
        }
        // And so is what is stored, to the last version.
        let stored: String = office
            .ask(
                "SELECT json_group_array(json_array(t.name, c.id, c.version, c.deleted, json(c.data))) FROM changes c
                  JOIN feeds f ON f.no = c.feed JOIN tables t ON t.no = f.tbl",
            )
            .await;
        let mut stored: Vec<Value> = serde_json::from_str(&stored).unwrap();
        let mut expected: Vec<Value> = Vec::new();
        for (key, rows) in &oracle.rows {
            let row = |row: &Row| json!([TABLES[key.0], format!("r{}", key.1), row.version, i64::from(row.deleted), row.fields]);
            expected.extend(rows.iter().map(row));
        }
        stored.sort_by_key(ToString::to_string);
        expected.sort_by_key(ToString::to_string);
        assert_eq!(stored, expected, "seed {seed}");
    }
    assert!(decided > 15_000, "{decided}");
    // Nothing of what can happen was left out.
    for kind in ["applied ", "noop ", "merged ", "gone ", "client rule", "server rule", "none rule", "server late", "none gap"] {
        assert!(kinds.get(kind).is_some_and(|count| *count >= 2), "{kind}: {kinds:?}");
    }
}
