//! What the stories are told with: an appliance on a free port with its own directory, devices with short verbs.

pub mod device;
pub mod flood;
pub mod openapi;
pub mod people;
pub mod process;
pub mod quick;
pub mod replica;
pub mod small_disk;
pub mod socket;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use backroom::config::Config;
use backroom::domain::actor::Role;
use backroom::domain::ids::{StoreId, UserId};
use backroom::server;
use backroom::sqlite::writer::Outcome;
use backroom::store::{Clock, users};
use backroom::sync::{App, office};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use device::{Answer, Device, Pulled, Pushed};

/// Every user's password in the tests, and its hash: hashing takes 19 MiB and tens of milliseconds each time.
pub const PASSWORD: &str = "correct horse battery";

/// Held for reading by whoever asks for `/metrics` without a token, for writing by the test that plays tailscaled: that closes
/// it for all appliances of this machine.
pub static LOOPBACK: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

fn password_hash() -> &'static str {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASH.get_or_init(|| backroom::auth::password::hash(PASSWORD).unwrap())
}

/// A running appliance within this process: real files, real sockets. It stops when it is dropped.
pub struct Appliance {
    pub address: SocketAddr,
    pub app: Arc<App>,
    pub clock: Clock,
    pub directory: PathBuf,
    stop: watch::Sender<bool>,
    running: Option<tokio::task::JoinHandle<()>>,
    _temporary: Option<tempfile::TempDir>,
}

impl Appliance {
    /// With the `store` preset.
    pub async fn start() -> Appliance {
        Self::with("").await
    }

    /// With a `backroom.toml`.
    pub async fn with(rules: &str) -> Appliance {
        let temporary = tempfile::tempdir().unwrap();
        let mut appliance = Self::open(temporary.path().to_owned(), rules, Clock::default()).await;
        appliance._temporary = Some(temporary);
        appliance
    }

    /// On a directory that exists.
    pub async fn open(directory: PathBuf, rules: &str, clock: Clock) -> Appliance {
        let config = Config::parse(rules).unwrap();
        let app = server::open(&directory, &config, clock.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let serving = app.clone();
        let running = tokio::spawn(async move { server::run(serving, &config, listener, stopped).await });
        Appliance { address, app, clock, directory, stop, running: Some(running), _temporary: None }
    }

    /// Stops it as SIGTERM would, waits for the end, and starts it again on the same files.
    pub async fn restart(mut self, rules: &str) -> Appliance {
        let (directory, clock, temporary) = (self.directory.clone(), self.clock.clone(), self._temporary.take());
        self.stop().await;
        let mut next = Self::open(directory, rules, clock).await;
        next._temporary = temporary;
        next
    }

    /// Stops it and waits until the files are closed.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let running = self.running.take().unwrap();
        // The last handle to the application closes the files.
        let spare: Arc<App> = std::mem::replace(&mut self.app, nowhere().await);
        drop(spare);
        running.await.unwrap();
    }

    /// Puts other rules in force, as SIGHUP would.
    pub async fn reload(&self, rules: &str) {
        let tables = Config::parse(rules).unwrap().tables();
        self.app.adopt(office::adopt(&self.app.store, tables).await.unwrap());
    }

    /// Adds a user with the tests' password.
    pub async fn user(&self, name: &str, role: Role, stores: &[&str]) {
        let name = UserId::parse(name).unwrap();
        let stores: Vec<StoreId> = stores.iter().map(|s| StoreId::parse(s).unwrap()).collect();
        let hash = password_hash();
        self.app
            .store
            .writer
            .run(move |db, ledger| {
                users::add(db, &name, role, &stores, Some(hash), ledger.now())?;
                ledger.accounts_changed();
                Ok(Outcome::Keep(()))
            })
            .await
            .unwrap();
    }

    /// Sets a user's role and stores.
    pub async fn role(&self, name: &str, role: Role, stores: &[&str]) {
        let name = name.to_owned();
        let stores: Vec<StoreId> = stores.iter().map(|s| StoreId::parse(s).unwrap()).collect();
        self.app
            .store
            .writer
            .run(move |db, ledger| {
                let user = users::find(db, &name)?.unwrap();
                users::set_role(db, user.no, role, &stores, ledger.now())?;
                ledger.accounts_changed();
                Ok(Outcome::Keep(()))
            })
            .await
            .unwrap();
    }

    /// A device of a user, signed in over HTTP, with the id `<user>-<name>`.
    pub async fn device(&self, user: &str, name: &str) -> Device {
        Device::login(self.address, user, &format!("{user}-{name}")).await
    }

    /// A new manager with one device.
    pub async fn manager(&self, name: &str) -> Device {
        self.user(name, Role::Manager, &[]).await;
        self.device(name, "1").await
    }

    /// A new admin with one device.
    pub async fn admin(&self, name: &str) -> Device {
        self.user(name, Role::Admin, &[]).await;
        self.device(name, "1").await
    }

    /// A new user of one store with one device.
    pub async fn till(&self, name: &str, store: &str) -> Device {
        self.user(name, Role::Store, &[store]).await;
        self.device(name, "1").await
    }

    /// Runs a query on the database and gives its first value.
    pub async fn ask<T: rusqlite::types::FromSql + Send + 'static>(&self, sql: &'static str) -> T {
        self.app.store.readers.run(move |db| Ok(db.query_row(sql, [], |row| row.get(0))?)).await.unwrap()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// An application on an empty directory, to take the place of one that is let go.
async fn nowhere() -> Arc<App> {
    let temporary = tempfile::tempdir().unwrap();
    server::open(temporary.path(), &Config::default(), Clock::default()).await.unwrap()
}
