//! One-time tickets for browsers, which cannot send a header with a WebSocket: given to whoever has a token or a session, valid
//! for half a minute and for one connection. They live in memory, by their hashes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::token;

/// How long a ticket is valid: as long as a page may take to open its socket.
pub const VALID: Duration = Duration::from_secs(30);
/// Tickets of one device or session; the oldest makes room.
const PER_HOLDER: usize = 16;
/// Tickets in all; the oldest makes room.
const ALL: usize = 4_096;

/// By what somebody is known: the hash of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A device's token.
    Device([u8; 32]),
    /// A browser's session.
    Session([u8; 32]),
}

#[derive(Debug)]
struct Ticket {
    holder: Key,
    given: Instant,
}

/// All tickets.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<[u8; 32], Ticket>>);

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one; its secret.
    pub fn give(&self, holder: Key) -> Option<String> {
        let secret = token::secret("bkr_tkt_")?;
        let now = Instant::now();
        let mut tickets = self.lock();
        tickets.retain(|_, ticket| now.duration_since(ticket.given) < VALID);
        let own = tickets.iter().filter(|(_, ticket)| ticket.holder == holder);
        let oldest = match own.clone().count() {
            count if count >= PER_HOLDER => own.min_by_key(|(_, ticket)| ticket.given),
            _ if tickets.len() >= ALL => tickets.iter().min_by_key(|(_, ticket)| ticket.given),
            _ => None,
        };
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            tickets.remove(&oldest);
        }
        tickets.insert(token::hash(&secret), Ticket { holder, given: now });
        Some(secret)
    }

    /// Whose ticket a secret is; it is used up.
    pub fn take(&self, secret: &str) -> Option<Key> {
        let ticket = self.lock().remove(&token::hash(secret))?;
        (ticket.given.elapsed() < VALID).then_some(ticket.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once() {
        let tickets = Tickets::default();
        let (one, other) = (Key::Device([1; 32]), Key::Session([1; 32]));
        let secrets = [one, other].map(|holder| tickets.give(holder).unwrap());
        assert_eq!(tickets.take(&secrets[0]), Some(one));
        assert_eq!(tickets.take(&secrets[0]), None);
        assert_eq!(tickets.take("bkr_tkt_x"), None);
        assert_eq!(tickets.take(&secrets[1]), Some(other));
    }

    #[test]
    fn it_ends_by_itself_and_the_oldest_makes_room() {
        let tickets = Tickets::default();
        let first = tickets.give(Key::Device([1; 32])).unwrap();
        let others: Vec<String> = (0..PER_HOLDER).map(|_| tickets.give(Key::Device([1; 32])).unwrap()).collect();
        assert_eq!(tickets.take(&first), None);
        for ticket in tickets.lock().values_mut() {
            ticket.given = Instant::now().checked_sub(VALID).unwrap();
        }
        assert_eq!(tickets.take(&others[3]), None);
    }
}
