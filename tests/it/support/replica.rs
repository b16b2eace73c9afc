//! A model of a device: what it holds, what it changed and has not pushed, and how a pull's pages move both.
//!
//! Its own few lines, written after PROTOCOL section 5 and nothing of the engine, so that a mistake there shows here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Device, Pushed};

/// Table and id.
pub type Key = (String, String);

/// A device with its copy of the server's records and its own unpushed changes.
#[derive(Debug, Clone)]
pub struct Replica {
    pub device: Device,
    pub cursor: Option<String>,
    /// The server's records as far as they were pulled.
    pub mirror: BTreeMap<Key, Value>,
    /// Changes that wait to be pushed, in order.
    pub outbox: Vec<(String, Value)>,
    /// What a running reset has named so far.
    pub marks: Option<BTreeSet<Key>>,
    /// Resets that began.
    pub resets: usize,
    /// Ids that pulls called evicted.
    pub evicted: BTreeSet<Key>,
    /// Tables that it asks for; all where `None`.
    pub tables: Option<Vec<String>>,
    pub limit: i64,
}

impl Replica {
    pub fn new(device: Device) -> Replica {
        Replica {
            device,
            cursor: None,
            mirror: BTreeMap::new(),
            outbox: Vec::new(),
            marks: None,
            resets: 0,
            evicted: BTreeSet::new(),
            tables: None,
            limit: 1_000,
        }
    }

    /// Pulls one page and takes it in. `true`: there is more.
    pub async fn page(&mut self) -> bool {
        let mut request = json!({ "cursor": self.cursor, "limit": self.limit });
        if let Some(tables) = &self.tables {
            request["tables"] = json!(tables);
        }
        let page = self.device.pull_with(request).await.0;
        self.take(&page)
    }

    /// Takes a page in.
    pub fn take(&mut self, page: &Value) -> bool {
        match page["reset"].as_str() {
            Some("first") => {
                self.marks = Some(BTreeSet::new());
                self.resets += 1;
            }
            Some("more") => assert!(self.marks.is_some(), "a reset goes on that never began"),
            Some(other) => panic!("reset is {other:?}"),
            None => {
                assert_eq!(page["reset"], false);
                self.marks = None;
            }
        }
        let mut named = BTreeSet::new();
        for (table, records) in page["changes"].as_object().unwrap() {
            for record in records.as_array().unwrap() {
                let key = (table.clone(), record["id"].as_str().unwrap().to_owned());
                assert!(named.insert(key.clone()), "{key:?} stands twice in one page");
                if let Some(marks) = &mut self.marks {
                    marks.insert(key.clone());
                }
                if record["deleted"] == true {
                    self.mirror.remove(&key)
                } else {
                    self.mirror.insert(key, record.clone())
                };
            }
        }
        for (table, ids) in page["evicted"].as_object().unwrap() {
            for id in ids.as_array().unwrap() {
                let key = (table.clone(), id.as_str().unwrap().to_owned());
                assert!(!named.contains(&key), "{key:?} is given and evicted by one page");
                self.mirror.remove(&key);
                self.evicted.insert(key);
            }
        }
        self.cursor = Some(page["cursor"].as_str().unwrap().to_owned());
        let more = page["has_more"].as_bool().unwrap();
        if !more && let Some(marks) = self.marks.take() {
            self.mirror.retain(|key, _| marks.contains(key));
        }
        more
    }

    /// Pulls to the end.
    pub async fn pull(&mut self) {
        while self.page().await {}
    }

    /// An edit that is not pushed yet: over the copy, where there is one, with its version.
    pub fn edit(&mut self, table: &str, id: &str, fields: &Value) {
        let key = (table.to_owned(), id.to_owned());
        let mut record = self.mirror.get(&key).cloned().unwrap_or_else(|| json!({ "id": id }));
        for (name, value) in fields.as_object().unwrap() {
            record[name] = value.clone();
        }
        self.outbox.push((table.to_owned(), record));
    }

    /// Pushes everything that waits.
    pub async fn push(&mut self) -> Pushed {
        let operations: Vec<Value> = self
            .outbox
            .iter()
            .map(|(table, record)| json!({ "table": table, "id": record["id"], "op": "update", "data": record }))
            .collect();
        let pushed = self.device.push(json!({ "cursor": self.cursor, "operations": operations })).await;
        self.outbox.clear();
        pushed
    }

    /// All that it holds, comparable.
    pub fn holds(&self) -> BTreeMap<Key, Value> {
        self.mirror.clone()
    }

    /// What the server would give a new device of the same user now.
    pub async fn truth(&self) -> BTreeMap<Key, Value> {
        let mut fresh = Replica { tables: self.tables.clone(), ..Replica::new(self.device.clone()) };
        fresh.pull().await;
        fresh.mirror
    }

    /// What it holds of a table, counted as a verify counts: all of it, then by bucket.
    pub fn tally(&self, table: &str) -> (Value, Vec<Value>) {
        let mut sums = vec![(0_u64, 0_u128); 257];
        for (_, record) in self.mirror.iter().filter(|((of, _), _)| of == table) {
            let number = number(record);
            for sum in [256, bucket(record["id"].as_str().unwrap())] {
                sums[sum] = (sums[sum].0 + 1, sums[sum].1.wrapping_add(number));
            }
        }
        let mut told: Vec<Value> = sums.into_iter().map(|(count, sum)| json!({ "count": count, "hash": format!("{sum:032x}") })).collect();
        (told.pop().unwrap(), told)
    }

    /// A verify with what it holds of these tables, or of all. The answer's `matches` must be what it finds out by itself.
    pub async fn ask(&self, mut request: Value) -> Value {
        let tables: BTreeSet<&str> = self.mirror.keys().map(|(table, _)| table.as_str()).collect();
        let tables: Vec<&str> = self.tables.as_ref().map_or(tables.into_iter().collect(), |all| all.iter().map(String::as_str).collect());
        if request.get("tables").is_none() {
            request["tables"] = tables.iter().map(|table| ((*table).to_owned(), self.tally(table).0)).collect();
        }
        request["cursor"] = json!(self.cursor);
        let answer = self.device.post("/api/v1/sync/verify", request.clone()).await.ok();
        for (table, told) in answer["tables"].as_object().unwrap() {
            let (own, buckets) = self.tally(table);
            let same = (&told["count"], &told["hash"]) == (&own["count"], &own["hash"]);
            let expected = if request["tables"][table].is_null() { Value::Null } else { json!(same) };
            assert_eq!(told["matches"], expected, "{table}: {told}, and here {own}");
            if let Some(theirs) = told["buckets"].as_array() {
                assert_eq!(*theirs == buckets, same, "{table} by bucket");
            }
        }
        answer
    }

    /// Does it hold what it should? `None`: it has to pull first.
    pub async fn verify(&self) -> Option<bool> {
        // Once without naming any, which tells of tables too that it holds nothing of.
        let all = match &self.tables {
            None => self.ask(json!({ "tables": null })).await,
            Some(_) => self.ask(json!({})).await,
        };
        let empty = |told: &Value| (&told["count"], &told["hash"]) == (&json!(0), &json!("0".repeat(32)));
        let held: BTreeSet<&String> = self.mirror.keys().map(|(table, _)| table).collect();
        let nothing_beside = all["tables"].as_object().unwrap().iter().all(|(table, told)| held.contains(table) || empty(told));
        let named = self.ask(json!({})).await;
        let matches = named["tables"].as_object().unwrap().values().all(|told| told["matches"] == true);
        (all["current"] == true && named["current"] == true).then_some(matches && nothing_beside)
    }

    /// The buckets of a table that differ.
    pub async fn differing(&self, table: &str) -> Vec<usize> {
        let answer = self.ask(json!({ "tables": { table: self.tally(table).0 }, "buckets": [table] })).await;
        let (theirs, own) = (answer["tables"][table]["buckets"].as_array().unwrap(), self.tally(table).1);
        (0..256).filter(|bucket| theirs[*bucket] != own[*bucket]).collect()
    }

    /// Fetches the differing buckets of a table and puts them in the place of its own. The number of answers that it took.
    pub async fn repair(&mut self, table: &str) -> usize {
        let (mut left, mut answers) = (self.differing(table).await, 0);
        while !left.is_empty() {
            answers += 1;
            let answer = self.device.post("/api/v1/sync/verify", json!({ "tables": {}, "records": { table: left } })).await.ok();
            let given = answer["records"][table].as_object().unwrap();
            assert!(!given.is_empty());
            for (bucket_no, records) in given {
                let bucket_no: usize = bucket_no.parse().unwrap();
                assert!(left.contains(&bucket_no));
                left.retain(|other| *other != bucket_no);
                self.mirror.retain(|(of, id), _| of != table || bucket(id) != bucket_no);
                for record in records.as_array().unwrap() {
                    let id = record["id"].as_str().unwrap().to_owned();
                    assert_eq!(bucket(&id), bucket_no);
                    self.mirror.insert((table.to_owned(), id), record.clone());
                }
            }
            assert_eq!(answer["has_more"], !left.is_empty());
        }
        answers
    }
}

/// The bucket of an id.
pub fn bucket(id: &str) -> usize {
    usize::from(Sha256::digest(id)[0])
}

/// A record's number in the sum.
fn number(record: &Value) -> u128 {
    let mut content = record.clone();
    for name in ["id", "version", "updated_at"] {
        content.as_object_mut().unwrap().remove(name);
    }
    let mut text = String::new();
    canonical(&content, &mut text);
    let short = |text: &str| Sha256::digest(text)[..16].iter().fold(0_u128, |number, byte| (number << 8) | u128::from(*byte));
    short(&format!("{}\n{}\n{:032x}", record["id"].as_str().unwrap(), record["version"], short(&text)))
}

/// RFC 8785 for what the tests hold: no numbers whose shortest form depends on the language.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| name.encode_utf16().collect::<Vec<_>>());
            for (place, (name, value)) in members.into_iter().enumerate() {
                out.push_str(if place == 0 { "{" } else { "," });
                out.push_str(&json!(name).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push_str(if value.as_object().unwrap().is_empty() { "{}" } else { "}" });
        }
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                out.push_str(if place == 0 { "" } else { "," });
                canonical(item, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}
