//! The throttle on failures to sign in or enrol: per address and per account. Successes cost nothing.
//!
//! An account has a budget for addresses that it has signed in from before, and another for all strangers together, so a
//! stranger who guesses at the owner's password cannot lock the owner out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures that one key may have in a window.
const FAILURES: u32 = 10;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// Keys remembered; a flood of addresses forgets the oldest windows first.
const KEYS: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Strangers(String),
    Known(String, IpAddr),
}

#[derive(Debug, Default)]
struct State {
    failures: HashMap<Key, (Instant, u32)>,
    known: HashSet<(String, IpAddr)>,
}

/// Failures in the last minute.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

impl Throttle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May this address try (for this account)? Otherwise: how long to wait.
    pub fn admit(&self, address: IpAddr, account: Option<&str>) -> Result<(), Duration> {
        let state = self.lock();
        let now = Instant::now();
        let worst = state.keys(address, account).into_iter().filter_map(|key| {
            let (began, count) = state.failures.get(&key)?;
            let left = WINDOW.checked_sub(now.duration_since(*began))?;
            (*count >= FAILURES).then_some(left)
        });
        worst.max().map_or(Ok(()), Err)
    }

    /// A failure.
    pub fn failed(&self, address: IpAddr, account: Option<&str>) {
        let mut state = self.lock();
        let now = Instant::now();
        if state.failures.len() >= KEYS {
            state.failures.retain(|_, (began, _)| now.duration_since(*began) < WINDOW);
        }
        if state.failures.len() >= KEYS {
            state.failures.clear();
        }
        for key in state.keys(address, account) {
            let entry = state.failures.entry(key).or_insert((now, 0));
            if now.duration_since(entry.0) >= WINDOW {
                *entry = (now, 0);
            }
            entry.1 += 1;
        }
    }

    /// A success: the address is known for the account from now on.
    pub fn succeeded(&self, address: IpAddr, account: &str) {
        let mut state = self.lock();
        if state.known.len() >= KEYS {
            state.known.clear();
        }
        let account = account.to_ascii_lowercase();
        state.failures.remove(&Key::Known(account.clone(), address));
        state.known.insert((account, address));
    }
}

impl State {
    fn keys(&self, address: IpAddr, account: Option<&str>) -> Vec<Key> {
        let Some(account) = account.map(str::to_ascii_lowercase) else { return vec![Key::Address(address)] };
        if self.known.contains(&(account.clone(), address)) {
            return vec![Key::Known(account, address)];
        }
        vec![Key::Address(address), Key::Strangers(account)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_lock_the_owner_out() {
        let throttle = Throttle::default();
        let (owner, stranger) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 9]));
        throttle.succeeded(owner, "Anna");
        for _ in 0..FAILURES {
            assert!(throttle.admit(stranger, Some("anna")).is_ok());
            throttle.failed(stranger, Some("anna"));
        }
        assert!(throttle.admit(stranger, Some("anna")).is_err() && throttle.admit(stranger, Some("berta")).is_err());
        assert!(throttle.admit(IpAddr::from([10, 0, 0, 8]), Some("ANNA")).is_err(), "all strangers share one budget");
        assert!(throttle.admit(owner, Some("anna")).is_ok());
        for _ in 0..FAILURES {
            throttle.failed(owner, Some("anna"));
        }
        assert!(throttle.admit(owner, Some("anna")).is_err());
    }
}
