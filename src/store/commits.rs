//! What commits changed, until the hub has told it: filled by the writer, emptied by the hub. Ids and numbers, no contents.
//!
//! Nothing waits here while nobody listens. What waits is bounded: changes of one device to one feed are one group, which
//! beyond [`NAMED`] of them only counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::cursor::Seq;

use super::live::{FeedNo, TableNo};

/// Changes of one table that a hint names. Beyond it a hint says how many there are.
pub const NAMED: usize = 64;
/// Conflicts that wait to be told by name; beyond it they are counted.
const NOTICES: usize = 1_024;

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is new, or alive again.
    Create,
    /// It has another content.
    Update,
    /// It was deleted.
    Delete,
    /// It left a feed.
    Evict,
}

impl Operation {
    /// The word in a hint.
    pub fn word(self) -> &'static str {
        match self {
            Operation::Create => "create",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Evict => "evict",
        }
    }
}

/// One change of a record.
#[derive(Debug)]
pub struct Change {
    /// The record's id.
    pub id: Box<str>,
    /// What happened.
    pub operation: Operation,
    /// The record's version after it.
    pub version: i64,
    /// Its position.
    pub seq: Seq,
}

/// Where changes happened and whose they are: what decides who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The table.
    pub table: TableNo,
    /// The feed that holds the record now.
    pub feed: FeedNo,
    /// The feed that held it before, where that is another one.
    pub left: Option<FeedNo>,
    /// The device that made the change.
    pub device: Option<i64>,
}

/// Changes of one place.
#[derive(Debug, Default)]
pub struct Group {
    /// The first [`NAMED`] of them.
    pub named: Vec<Arc<Change>>,
    /// How many there are.
    pub count: u64,
    /// Seq of the newest.
    pub seq: Seq,
}

/// Who may be told of a conflict, beside those who see every store.
#[derive(Debug, PartialEq, Eq)]
pub enum Circle {
    /// Nobody else.
    Managers,
    /// The user whose change it is.
    Author(i64),
    /// Whoever sees all of these scope values.
    Scopes(Vec<Box<str>>),
}

/// News of a conflict.
#[derive(Debug)]
pub struct Notice {
    /// Its id.
    pub conflict: String,
    /// Its table.
    pub table: TableNo,
    /// Its record.
    pub record: String,
    /// `open` or `resolved`.
    pub status: String,
    /// `use_client`, `use_server` or `use_merged`.
    pub suggest: String,
    /// The device that caused the news, and has its answer.
    pub device: Option<i64>,
    /// Who else may know.
    pub circle: Circle,
}

/// Everything that waits to be told.
#[derive(Debug, Default)]
pub struct News {
    /// Changes, by where they happened.
    pub groups: HashMap<Place, Group>,
    /// Conflicts.
    pub notices: Vec<Arc<Notice>>,
    /// Further conflicts of a flood, which are not told by name.
    pub unnamed: u64,
}

impl News {
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.notices.is_empty() && self.unnamed == 0
    }
}

/// What one job of the writer has to tell, if it is kept.
#[derive(Debug)]
pub enum Event {
    /// A record changed.
    Change(Place, Change),
    /// A conflict was recorded or decided.
    Notice(Notice),
}

/// The way from the writer to the hub.
#[derive(Debug, Default)]
pub struct Commits {
    heard: AtomicBool,
    waiting: Mutex<News>,
    arrived: Notify,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, News> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody listens, or nobody any more.
    pub fn listen(&self, heard: bool) {
        self.heard.store(heard, Ordering::SeqCst);
        if !heard {
            *self.lock() = News::default();
        }
    }

    /// Adds what a commit made durable, if anybody listens. Called once positions have moved: whoever begins to listen after
    /// this look has a position with it.
    pub fn publish(&self, events: Vec<Event>) {
        if events.is_empty() || !self.heard.load(Ordering::SeqCst) {
            return;
        }
        let mut news = self.lock();
        for event in events {
            match event {
                Event::Change(place, change) => {
                    let group = news.groups.entry(place).or_default();
                    group.seq = group.seq.max(change.seq);
                    if group.named.len() < NAMED {
                        group.named.push(Arc::new(change));
                    }
                    group.count += 1;
                }
                Event::Notice(notice) if news.notices.len() < NOTICES => news.notices.push(Arc::new(notice)),
                Event::Notice(_) => news.unnamed += 1,
            }
        }
        drop(news);
        self.arrived.notify_one();
    }

    /// Waits for news and takes all of it.
    pub async fn take(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.lock());
            if !news.is_empty() {
                return news;
            }
            self.arrived.notified().await;
        }
    }
}
