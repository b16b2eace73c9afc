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
