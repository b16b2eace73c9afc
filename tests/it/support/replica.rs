//! A model of a device: what it holds, what it changed and has not pushed, and how a pull's pages move both.
//!
//! Its own few lines, written after PROTOCOL section 5 and nothing of the engine, so that a mistake there shows here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

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
}
