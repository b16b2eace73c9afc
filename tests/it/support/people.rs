//! How people and devices come in: invitations, browsers' sessions, and waiting for what another process did.

use std::time::{Duration, Instant};

use backroom::auth::token;
use backroom::sqlite::writer::Outcome;
use backroom::store::{devices, users};
use backroom::sync::accounts::INVITATION;
use reqwest::Method;
use serde_json::json;

use super::{Appliance, Device, PASSWORD};

impl Appliance {
    /// A one-time code for a device of a user.
    pub async fn invite(&self, user: &str) -> String {
        let (code, user) = (token::code().unwrap(), user.to_owned());
        let hash = token::hash(&token::normal_code(&code));
        let write = move |db: &rusqlite::Connection, ledger: &mut backroom::store::ledger::Ledger| {
            let (user, now) = (users::find(db, &user)?.unwrap(), ledger.now());
            Ok(Outcome::Keep(devices::invite(db, &hash, user.no, "test", now, now + INVITATION)?))
        };
        self.app.store.writer.run(write).await.unwrap();
        code
    }

    /// Signs a user's browser in, with the tests' password; the cookie.
    pub async fn sign_in(&self, user: &str) -> String {
        let body = json!({ "username": user, "password": PASSWORD });
        let answer = Device::stranger(self.address).post("/api/v1/auth/login", body).await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// A GET by a browser that sends a cookie.
    pub async fn look(&self, cookie: &str, path: &str) -> super::Answer {
        let browser = Device::stranger(self.address);
        browser.send(browser.request(Method::GET, path).header("cookie", cookie)).await
    }

    /// Looks until there is something to see.
    pub async fn becomes<T>(&self, look: impl AsyncFn() -> Option<T>) -> T {
        within(Duration::from_secs(10), look).await
    }
}

/// Looks again and again until there is something to see. Panics when the time is over.
#[track_caller]
pub fn within<T>(time: Duration, look: impl AsyncFn() -> Option<T>) -> impl Future<Output = T> {
    let (place, deadline) = (std::panic::Location::caller(), Instant::now() + time);
    async move {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(Instant::now() < deadline, "{place}: still waiting after {time:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
