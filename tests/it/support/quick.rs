//! Devices without a login: enrolled straight in the database, since hashing a password for each would take most of a test's time.

use backroom::auth::token;
use backroom::domain::actor::Role;
use backroom::sqlite::writer::Outcome;
use backroom::store::devices::{self, Enrolment};
use backroom::store::users;
use serde_json::Value;

use super::{Appliance, Device};

/// A time on the appliance's clock, so many seconds from now (before it where negative), as clients write times.
pub fn at(office: &Appliance, seconds: i64) -> String {
    backroom::domain::clock::text(office.clock.now() + seconds * 1_000_000)
}

/// The problem of an answer without what names the request.
pub fn without_request_id(text: &str) -> Value {
    let mut body: Value = serde_json::from_str(text).unwrap();
    body.as_object_mut().unwrap().remove("request_id");
    body
}

impl Appliance {
    /// A device of a user that exists, with the id `<user>-<name>`.
    pub async fn enrolled(&self, user: &str, name: &str) -> Device {
        let (id, secret) = (format!("{user}-{name}"), token::device_token().unwrap());
        let (user, device, hash) = (user.to_owned(), id.clone(), token::hash(&secret));
        let enrol = self.app.store.writer.run(move |db, ledger| {
            let user = users::find(db, &user)?.unwrap();
            let enrolment = Enrolment { id: &device, user: user.no, name: &device, platform: "test", app_version: "1.0", token: hash };
            assert!(devices::enrol(db, &enrolment, ledger.now())?);
            ledger.accounts_changed();
            Ok(Outcome::Keep(()))
        });
        enrol.await.unwrap();
        Device { id, token: secret, ..Device::stranger(self.address) }
    }

    /// Many devices of a user that exists, `<user>-c0` and so on, in one transaction.
    pub async fn crowd(&self, user: &str, count: usize) -> Vec<Device> {
        let stranger = Device::stranger(self.address);
        let one = |no| Device { id: format!("{user}-c{no}"), token: token::device_token().unwrap(), ..stranger.clone() };
        let devices: Vec<Device> = (0..count).map(one).collect();
        let rows: Vec<_> = devices.iter().map(|device| (device.id.clone(), token::hash(&device.token))).collect();
        let user = user.to_owned();
        let enrol = self.app.store.writer.run(move |db, ledger| {
            let user = users::find(db, &user)?.unwrap();
            for (id, hash) in &rows {
                let enrolment = Enrolment { id, user: user.no, name: id, platform: "test", app_version: "1.0", token: *hash };
                assert!(devices::enrol(db, &enrolment, ledger.now())?);
            }
            ledger.accounts_changed();
            Ok(Outcome::Keep(()))
        });
        enrol.await.unwrap();
        devices
    }

    /// A new user with one device.
    pub async fn someone(&self, name: &str, role: Role, stores: &[&str]) -> Device {
        let (user, stores): (String, Vec<String>) = (name.into(), stores.iter().map(ToString::to_string).collect());
        let add = self.app.store.writer.run(move |db, ledger| {
            let stores: Vec<_> = stores.iter().map(|store| backroom::domain::ids::StoreId::parse(store).unwrap()).collect();
            users::add(db, &backroom::domain::ids::UserId::parse(&user).unwrap(), role, &stores, None, ledger.now())?;
            ledger.accounts_changed();
            Ok(Outcome::Keep(()))
        });
        add.await.unwrap();
        self.enrolled(name, "1").await
    }

    /// A new user of one store with one device.
    pub async fn clerk(&self, name: &str, store: &str) -> Device {
        self.someone(name, Role::Store, &[store]).await
    }

    /// A new manager with one device.
    pub async fn boss(&self, name: &str) -> Device {
        self.someone(name, Role::Manager, &[]).await
    }

    /// A new admin with one device.
    pub async fn chief(&self, name: &str) -> Device {
        self.someone(name, Role::Admin, &[]).await
    }
}
