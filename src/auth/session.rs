//! Signed-in browsers. Sessions live in memory, by the hash of their secret: a restart signs everybody out, and nothing
//! is written while somebody only looks. Another password or role, or disabling, ends a session: whoever asks compares `access`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::ids::UserId;

use super::token;

/// Without a request for so long, a session ends.
const IDLE: Duration = Duration::from_secs(12 * 3_600);
/// A session ends after so long in any case.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// Sessions of one user; the oldest makes room.
const PER_USER: usize = 20;

#[derive(Debug)]
struct Session {
    user: UserId,
    /// The user's `access` when it began; another one ends it.
    access: i64,
    began: Instant,
    seen: Instant,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<[u8; 32], Session>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one; the secret for the cookie.
    pub fn begin(&self, user: &UserId, access: i64) -> Option<String> {
        let secret = token::secret("bkr_ses_")?;
        let now = Instant::now();
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.is_valid(now));
        let own = sessions.iter().filter(|(_, session)| session.user == *user);
        if own.clone().count() >= PER_USER
            && let Some(oldest) = own.min_by_key(|(_, session)| session.began).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(token::hash(&secret), Session { user: user.clone(), access, began: now, seen: now });
        Some(secret)
    }

    /// Whose session a secret is, and the user's `access` when it began.
    pub fn user(&self, secret: &str) -> Option<(UserId, i64)> {
        let now = Instant::now();
        let mut sessions = self.lock();
        let session = sessions.get_mut(&token::hash(secret)).filter(|session| session.is_valid(now))?;
        session.seen = now;
        Some((session.user.clone(), session.access))
    }

    /// Whose session a secret's hash is, without counting as a request of theirs.
    pub fn holder(&self, key: &[u8; 32]) -> Option<(UserId, i64)> {
        let sessions = self.lock();
        let session = sessions.get(key).filter(|session| session.is_valid(Instant::now()))?;
        Some((session.user.clone(), session.access))
    }

    /// Ends one.
    pub fn end(&self, secret: &str) {
        self.lock().remove(&token::hash(secret));
    }
}

impl Session {
    fn is_valid(&self, now: Instant) -> bool {
        now.duration_since(self.seen) < IDLE && now.duration_since(self.began) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_it_is_idle_or_old() {
        let (user, now, second) = (UserId::parse("mia").unwrap(), Instant::now(), Duration::from_secs(1));
        let mut session = Session { user: user.clone(), access: 1, began: now, seen: now };
        assert!(session.is_valid(now + IDLE - second) && !session.is_valid(now + IDLE));
        session.seen = now + LONGEST - 2 * second;
        assert!(session.is_valid(now + LONGEST - second) && !session.is_valid(now + LONGEST));
    }

    #[test]
    fn the_oldest_makes_room() {
        let (user, sessions) = (UserId::parse("mia").unwrap(), Sessions::default());
        let secrets: Vec<String> = (0..=PER_USER).map(|_| sessions.begin(&user, 7).unwrap()).collect();
        assert_eq!(sessions.user(&secrets[0]), None);
        assert!(secrets[1..].iter().all(|secret| sessions.user(secret) == Some((user.clone(), 7))));
        sessions.end(&secrets[1]);
        assert_eq!(sessions.user(&secrets[1]), None);
    }
}
