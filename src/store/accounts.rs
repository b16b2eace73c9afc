//! Users and devices in memory: every request asks who it is from, and must not ask the disk.
//!
//! The directory is replaced as a whole when its generation in the database moves, also when another process (the command
//! line) moved it. What a device does between commits (last seen, cursor, report) is kept beside it until a commit takes it along.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::domain::actor::{Actor, Role};
use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::ids::{DeviceId, StoreId, UserId};

use super::live::TableNo;
use super::{Result, devices, meta, users};

/// A user as requests see one.
#[derive(Debug, Clone)]
pub struct User {
    /// Number in the database.
    pub no: i64,
    /// The name.
    pub name: UserId,
    /// The role.
    pub role: Role,
    /// The stores, in order.
    pub stores: Vec<StoreId>,
    /// Raised by every change of role or stores.
    pub view: i64,
    /// Raised by whatever ends sessions: another password, role or store, disabling.
    pub access: i64,
    /// May act.
    pub enabled: bool,
}

/// A device as requests see one.
#[derive(Debug)]
pub struct Device {
    /// Number in the database.
    pub no: i64,
    /// The device and its user, as rules see them.
    pub actor: Actor,
    /// The user's number.
    pub user: i64,
    /// The user's view generation.
    pub view: i64,
    /// Revoked, or its user disabled.
    pub revoked: bool,
    /// First enrolment.
    pub enrolled_at: Micros,
    /// What it did since the last flush.
    pub activity: Arc<Activity>,
}

/// What a device does between commits.
#[derive(Debug)]
pub struct Activity {
    state: Mutex<Seen>,
    /// Requests that it may make.
    pub limiter: DefaultDirectRateLimiter,
}

/// A device's own words and times.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Last request.
    pub seen_at: Option<Micros>,
    /// Last push.
    pub pushed_at: Option<Micros>,
    /// Last pull.
    pub pulled_at: Option<Micros>,
    /// Its clock minus the server's, microseconds.
    pub skew: Option<Micros>,
    /// Seq of the cursor that it last presented.
    pub cursor: Seq,
    /// The view that this cursor was of.
    pub view: i64,
    /// It has presented the cursor of a finished pull.
    pub pulled: bool,
    /// Last pull of each table.
    pub tables: BTreeMap<String, Micros>,
    /// Its report, JSON.
    pub report: Option<String>,
    /// When that came.
    pub reported_at: Option<Micros>,
    /// What pulls have given it.
    pub given: Given,
    dirty: bool,
}

/// How far a device was given each table, beside `Seen::cursor`, which is how far it surely holds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The view that it was given.
    pub view: i64,
    /// Seq of the cursor that each table's last page ended with.
    pub tables: BTreeMap<TableNo, Seq>,
}

impl Activity {
    fn new(seen: Seen, rate: u32, burst: u32) -> Activity {
        let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(rate)).allow_burst(at_least_one(burst));
        Activity { state: Mutex::new(seen), limiter: RateLimiter::direct(quota) }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Its last request.
    pub fn seen_at(&self) -> Option<Micros> {
        self.lock().seen_at
    }

    /// Its report, JSON, and when that came: with a push, and when exactly is known for those that came since it is noted.
    pub fn report(&self) -> Option<(String, Option<Micros>)> {
        let seen = self.lock();
        Some((seen.report.clone()?, seen.reported_at.or(seen.pushed_at)))
    }

    /// The cursor that it last presented, once it has finished a pull of this view.
    pub fn cursor(&self, view: i64) -> Option<Seq> {
        let seen = self.lock();
        (seen.pulled && seen.view == view).then_some(seen.cursor)
    }

    /// How far it was given each table of this view.
    pub fn given(&self, view: i64) -> BTreeMap<TableNo, Seq> {
        let seen = self.lock();
        if seen.given.view == view { seen.given.tables.clone() } else { BTreeMap::new() }
    }

    /// Notes something.
    pub fn note(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = self.lock();
        change(&mut seen);
        seen.dirty = true;
    }
}

/// All users and devices at one moment.
#[derive(Debug, Default)]
pub struct Directory {
    generation: i64,
    /// Writes are refused for everybody.
    pub paused: bool,
    by_token: HashMap<[u8; 32], Arc<Device>>,
    by_id: HashMap<DeviceId, Arc<Device>>,
    users: HashMap<UserId, Arc<User>>,
}

impl Directory {
    /// The device that holds a token, by the token's hash.
    pub fn device_by_token(&self, token: &[u8; 32]) -> Option<&Arc<Device>> {
        self.by_token.get(token)
    }

    /// A device by its id.
    pub fn device(&self, id: &DeviceId) -> Option<&Arc<Device>> {
        self.by_id.get(id)
    }

    /// A user by name.
    pub fn user(&self, name: &UserId) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = &Arc<Device>> {
        self.by_id.values()
    }
}

/// The directory, and how to renew it.
#[derive(Debug)]
pub struct Accounts {
    directory: RwLock<Arc<Directory>>,
    rate: AtomicI64,
    burst: AtomicI64,
    closing: AtomicBool,
    changed: Notify,
}

impl Accounts {
    /// Reads it at start.
    pub fn load(db: &Connection) -> Result<Accounts> {
        let accounts = Accounts {
            directory: RwLock::default(),
            rate: AtomicI64::new(5_000),
            burst: AtomicI64::new(20_000),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
        };
        accounts.reload(db)?;
        Ok(accounts)
    }

    /// Sets the rate limit, requests a second and burst, for devices read from now on.
    pub fn limit(&self, rate: u32, burst: u32) {
        self.rate.store(rate.into(), Ordering::Relaxed);
        self.burst.store(burst.into(), Ordering::Relaxed);
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let renew = |device: &Arc<Device>| {
            Arc::new(Device {
                actor: device.actor.clone(),
                activity: Arc::new(Activity::new(device.activity.seen(), rate, burst)),
                ..**device
            })
        };
        let by_id: HashMap<_, _> = directory.by_id.iter().map(|(id, device)| (id.clone(), renew(device))).collect();
        let by_token =
            directory.by_token.iter().filter_map(|(token, device)| Some((*token, by_id.get(device.actor.device.as_ref()?)?.clone())));
        *directory = Arc::new(Directory {
            generation: directory.generation,
            paused: directory.paused,
            by_token: by_token.collect(),
            users: directory.users.clone(),
            by_id,
        });
    }

    /// The directory as it is now.
    pub fn now(&self) -> Arc<Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads users and devices again. A device that stays keeps its activity and its rate limit.
    pub fn reload(&self, db: &Connection) -> rusqlite::Result<()> {
        let old = self.now();
        let users: HashMap<i64, Arc<User>> = users::all(db)?.into_iter().map(|user| (user.no, Arc::new(user))).collect();
        let (rate, burst) = (self.rate.load(Ordering::Relaxed) as u32, self.burst.load(Ordering::Relaxed) as u32);
        let mut directory = Directory {
            generation: meta::read(db, meta::ACCOUNTS)?.unwrap_or(0),
            paused: meta::read::<i64>(db, meta::PAUSED)?.is_some_and(|paused| paused != 0),
            ..Directory::default()
        };
        for row in devices::all(db)? {
            let Some(user) = users.get(&row.user) else { continue };
            let known = old.by_id.get(&row.id).map(|device| device.activity.clone());
            let device = Arc::new(Device {
                no: row.no,
                actor: Actor { device: Some(row.id.clone()), user: user.name.clone(), role: user.role, stores: user.stores.clone() },
                user: user.no,
                view: user.view,
                revoked: row.revoked_at.is_some() || !user.enabled,
                enrolled_at: row.created_at,
                activity: known.unwrap_or_else(|| Arc::new(Activity::new(row.seen, rate, burst))),
            });
            directory.by_token.insert(row.token, device.clone());
            directory.by_id.insert(row.id, device);
        }
        directory.users = users.into_values().map(|user| (user.name.clone(), user)).collect();
        // The writer looks from within its transaction, others at what is committed: whoever saw less does not undo it.
        let mut now = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        if directory.generation >= now.generation {
            *now = Arc::new(directory);
        }
        drop(now);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits until users or devices changed. One task does, for all that depends on it.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Reads again if the database's generation is another one. Called once a moment, for changes by other processes.
    pub fn refresh(&self, db: &Connection) -> rusqlite::Result<()> {
        if meta::read(db, meta::ACCOUNTS)?.unwrap_or(0) != self.now().generation {
            self.reload(db)?;
        }
        Ok(())
    }

    /// A commit failed after a reload, so what was read may never have been.
    pub fn is_doubtful(&self) -> bool {
        self.now().generation < 0
    }

    /// A commit failed after a reload: the next refresh reads again.
    pub fn distrust(&self) {
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let old = &**directory;
        *directory = Arc::new(Directory {
            generation: -1,
            paused: old.paused,
            by_token: old.by_token.clone(),
            by_id: old.by_id.clone(),
            users: old.users.clone(),
        });
    }

    /// Writes what devices did since the last flush.
    pub fn flush(&self, db: &Connection) -> rusqlite::Result<()> {
        for device in self.now().devices() {
            let mut seen = device.activity.lock();
            if std::mem::take(&mut seen.dirty) {
                devices::write_seen(db, device.no, &seen)?;
            }
        }
        Ok(())
    }

    /// The process ends: the writer's last transaction flushes.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// The process ends.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}
