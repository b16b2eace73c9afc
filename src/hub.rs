//! Layer 2: who listens, and what each of them is told of a commit. No sockets here, and no contents: a hint says where to
//! pull.
//!
//! Every listener has an inbox of bounded size. Whoever reads slowly finds in it what came together meanwhile, as one hint;
//! nobody else waits for that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::domain::cursor::Seq;
use crate::store::commits::{Change, Circle, Commits, Group, NAMED, News, Notice, Operation, Place};
use crate::store::live::{Live, TableNo};

/// Time that sending one hint may take of a core. After a round that woke so many listeners the hub rests for as long: what
/// comes meanwhile is told together, so hints cannot crowd pushes out.
const REST: Duration = Duration::from_micros(25);
/// Conflicts that wait in one inbox by name; beyond it they are counted.
const NOTICES: usize = 64;

/// Who listens.
#[derive(Debug, Clone)]
pub struct Listener {
    /// The device's number; `None` for a person in a browser.
    pub device: Option<i64>,
    /// The user's number.
    pub user: i64,
    /// Sees the records of every store.
    pub wide: bool,
}

/// What a listener sees of a table: these scope values; `None`: all.
#[derive(Debug, Clone)]
pub struct View {
    /// The table.
    pub table: TableNo,
    /// The scope values.
    pub scopes: Option<Vec<Box<str>>>,
}

/// Why there is no room for another listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This device, or this user in browsers, has as many as one may have.
    Own,
    /// There are as many as there may be.
    All,
}

/// Changes of one table, for one listener.
#[derive(Debug, Default)]
pub struct Heard {
    /// The changes, unless there are more than [`NAMED`].
    pub named: Vec<Arc<Change>>,
    /// How many there are.
    pub count: u64,
}

/// What came together for a listener.
#[derive(Debug, Default)]
pub struct Told {
    /// Seq of the newest change.
    pub seq: Seq,
    /// Changes by table.
    pub tables: BTreeMap<TableNo, Heard>,
    /// Conflicts.
    pub notices: Vec<Arc<Notice>>,
    /// Further conflicts, which are not told by name.
    pub unnamed: u64,
    /// The rules changed: what the listener sees has to be stated anew.
    pub rules: bool,
}

impl Told {
    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.notices.is_empty() && self.unnamed == 0 && !self.rules
    }

    /// Leaves out what was put in by other rules: the news of these have whoever hears them look at everything.
    pub fn forget(&mut self) {
        self.tables.clear();
        self.unnamed += self.notices.drain(..).count() as u64;
    }

    fn hear(&mut self, table: TableNo, named: &[Arc<Change>], group: &Group) {
        let heard = self.tables.entry(table).or_default();
        heard.count += group.count;
        if heard.count > NAMED as u64 {
            heard.named = Vec::new();
        } else {
            heard.named.extend_from_slice(named);
        }
        self.seq = self.seq.max(group.seq);
    }
}

#[derive(Debug)]
struct Seat {
    who: Listener,
    inbox: Mutex<Told>,
    woken: Notify,
    /// Whether it may still listen is to be looked at again.
    doubted: AtomicBool,
    doubt: Notify,
}

impl Seat {
    fn inbox(&self) -> MutexGuard<'_, Told> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who sees a table.
#[derive(Debug, Default)]
struct Audience {
    all: HashSet<u64>,
    scopes: HashMap<Box<str>, HashSet<u64>>,
}

#[derive(Debug, Default)]
struct Room {
    next: u64,
    seats: HashMap<u64, Arc<Seat>>,
    views: HashMap<u64, Vec<View>>,
    tables: HashMap<TableNo, Audience>,
    devices: HashMap<i64, usize>,
    browsers: HashMap<i64, usize>,
}

/// All listeners.
#[derive(Debug)]
pub struct Hub {
    live: Arc<Live>,
    commits: Arc<Commits>,
    room: Mutex<Room>,
    count: watch::Sender<usize>,
}

/// One listener's place; whoever drops it listens no more.
#[derive(Debug)]
pub struct Ear {
    hub: Arc<Hub>,
    no: u64,
    seat: Arc<Seat>,
}

impl Hub {
    /// Without listeners.
    pub fn new(live: Arc<Live>, commits: Arc<Commits>) -> Hub {
        Hub { live, commits, room: Mutex::default(), count: watch::Sender::new(0) }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more, of at most `own` of this device (or of this user's browsers) and `all` in all. It hears nothing
    /// before it says what it sees.
    pub fn join(self: &Arc<Self>, who: Listener, own: usize, all: usize) -> Result<Ear, Full> {
        let mut room = self.room();
        if room.seats.len() >= all {
            return Err(Full::All);
        }
        let count = room.count(&who);
        if *count >= own {
            return Err(Full::Own);
        }
        *count += 1;
        let no = room.next;
        room.next += 1;
        let (inbox, woken, doubt) = (Mutex::default(), Notify::new(), Notify::new());
        let seat = Arc::new(Seat { who, inbox, woken, doubted: AtomicBool::new(false), doubt });
        room.seats.insert(no, seat.clone());
        if room.seats.len() == 1 {
            self.commits.listen(true);
        }
        self.count.send_replace(room.seats.len());
        Ok(Ear { hub: self.clone(), no, seat })
    }

    /// How many listen.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// The devices that do.
    pub fn connected(&self) -> HashSet<i64> {
        self.room().devices.keys().copied().collect()
    }

    /// Waits until nobody does.
    pub async fn emptied(&self) {
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Tells everybody that the rules changed.
    pub fn rules_changed(&self) {
        for seat in self.room().seats.values() {
            seat.inbox().rules = true;
            seat.woken.notify_one();
        }
    }

    /// Has everybody look again whether they may listen. Called when accounts or sessions changed.
    pub fn review(&self) {
        for seat in self.room().seats.values() {
            seat.doubted.store(true, Ordering::SeqCst);
            seat.doubt.notify_one();
        }
    }

    /// Tells what commits changed, for ever.
    pub async fn run(&self) {
        loop {
            let news = self.commits.take().await;
            let woken = self.spread(&news);
            if woken > 0 {
                tokio::time::sleep(REST * woken).await;
            }
        }
    }

    /// Puts news into the inboxes of whoever sees what they are about; how many that are.
    fn spread(&self, news: &News) -> u32 {
        let room = self.room();
        let mut told = HashSet::new();
        for (place, group) in &news.groups {
            let Some(audience) = room.tables.get(&place.table) else { continue };
            let (here, left) = self.scopes(place);
            let here = here.and_then(|scope| audience.scopes.get(&scope));
            let left = left.and_then(|scope| audience.scopes.get(&scope));
            let mut tell = |no: &u64, named: &[Arc<Change>]| {
                if let Some(seat) = room.seats.get(no)
                    && (place.device.is_none() || seat.who.device != place.device)
                {
                    seat.inbox().hear(place.table, named, group);
                    told.insert(*no);
                }
            };
            for no in audience.all.iter().chain(here.into_iter().flatten()) {
                tell(no, &group.named);
            }
            // Whoever saw it before, and sees it no more.
            let gone = |change: &Arc<Change>| {
                let (id, operation) = (change.id.clone(), Operation::Evict);
                Arc::new(Change { id, operation, version: 0, seq: change.seq })
            };
            let gone: Vec<Arc<Change>> = if left.is_some() { group.named.iter().map(gone).collect() } else { Vec::new() };
            for no in left.into_iter().flatten().filter(|no| !here.is_some_and(|here| here.contains(no))) {
                tell(no, &gone);
            }
        }
        for notice in &news.notices {
            for no in room.circle(notice) {
                if let Some(seat) = room.seats.get(&no) {
                    let mut inbox = seat.inbox();
                    if inbox.notices.len() < NOTICES {
                        inbox.notices.push(notice.clone())
                    } else {
                        inbox.unnamed += 1
                    }
                    told.insert(no);
                }
            }
        }
        if news.unnamed > 0 {
            for (no, seat) in room.seats.iter().filter(|(_, seat)| seat.who.wide) {
                seat.inbox().unnamed += news.unnamed;
                told.insert(*no);
            }
        }
        for seat in told.iter().filter_map(|no| room.seats.get(no)) {
            seat.woken.notify_one();
        }
        told.len() as u32
    }

    /// The scope values of where a record is and was.
    fn scopes(&self, place: &Place) -> (Option<Box<str>>, Option<Box<str>>) {
        let state = self.live.read();
        let scope = |no| state.numbered(no).map(|feed| feed.scope.clone());
        (scope(place.feed), place.left.and_then(scope))
    }
}

impl Room {
    /// How many places this device has, or this user's browsers.
    fn count(&mut self, who: &Listener) -> &mut usize {
        match who.device {
            Some(device) => self.devices.entry(device).or_default(),
            None => self.browsers.entry(who.user).or_default(),
        }
    }

    /// Who is told of a conflict.
    fn circle(&self, notice: &Notice) -> Vec<u64> {
        let Some(audience) = self.tables.get(&notice.table) else { return Vec::new() };
        let mut circle: HashSet<u64> = audience.all.iter().chain(audience.scopes.values().flatten()).copied().collect();
        circle.retain(|no| {
            let Some(seat) = self.seats.get(no) else { return false };
            let sees = |scope: &str| audience.scopes.get(scope).is_some_and(|seats| seats.contains(no));
            let may = seat.who.wide
                || match &notice.circle {
                    Circle::Managers => false,
                    Circle::Author(user) => seat.who.user == *user,
                    Circle::Scopes(scopes) => scopes.iter().all(|scope| sees(scope)),
                };
            may && (notice.device.is_none() || seat.who.device != notice.device)
        });
        circle.into_iter().collect()
    }

    /// Takes a listener's views away.
    fn blind(&mut self, no: u64) {
        for view in self.views.remove(&no).unwrap_or_default() {
            let Some(audience) = self.tables.get_mut(&view.table) else { continue };
            audience.all.remove(&no);
            for scope in view.scopes.iter().flatten() {
                if let Some(seats) = audience.scopes.get_mut(scope) {
                    seats.remove(&no);
                    if seats.is_empty() {
                        audience.scopes.remove(scope);
                    }
                }
            }
            if audience.all.is_empty() && audience.scopes.is_empty() {
                self.tables.remove(&view.table);
            }
        }
    }
}

impl Ear {
    /// States what this listener sees from now on.
    pub fn see(&self, views: Vec<View>) {
        let mut room = self.hub.room();
        room.blind(self.no);
        for view in &views {
            let audience = room.tables.entry(view.table).or_default();
            match &view.scopes {
                None => drop(audience.all.insert(self.no)),
                Some(scopes) => {
                    for scope in scopes {
                        audience.scopes.entry(scope.clone()).or_default().insert(self.no);
                    }
                }
            }
        }
        room.views.insert(self.no, views);
    }

    /// States it by new rules: what waits was put in by the old ones.
    pub fn see_anew(&self, views: Vec<View>) {
        self.see(views);
        self.seat.inbox().forget();
    }

    /// Waits for what there is to tell, and takes all of it.
    pub async fn told(&self) -> Told {
        loop {
            let told = std::mem::take(&mut *self.seat.inbox());
            if !told.is_empty() {
                return told;
            }
            self.seat.woken.notified().await;
        }
    }

    /// Waits until accounts or sessions changed, and this listener has to look whether it still may listen.
    pub async fn reviewed(&self) {
        while !self.seat.doubted.swap(false, Ordering::SeqCst) {
            self.seat.doubt.notified().await;
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut room = self.hub.room();
        room.blind(self.no);
        room.seats.remove(&self.no);
        let count = room.count(&self.seat.who);
        *count -= 1;
        if *count == 0 {
            match self.seat.who.device {
                Some(device) => drop(room.devices.remove(&device)),
                None => drop(room.browsers.remove(&self.seat.who.user)),
            }
        }
        if room.seats.is_empty() {
            self.hub.commits.listen(false);
        }
        self.hub.count.send_replace(room.seats.len());
    }
}
