//! Passwords: argon2id with 19 MiB, two passes, one lane (OWASP Password Storage Cheat Sheet, 2023).

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

use crate::domain::limits;

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;

fn argon() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(MEMORY_KIB, PASSES, 1, None).unwrap_or_default())
}

/// What is wrong with a new password, in one sentence.
pub fn check(password: &str) -> Result<(), String> {
    let length = password.chars().count();
    if length < limits::PASSWORD_MIN_CHARS {
        return Err(format!("A password has at least {} characters.", limits::PASSWORD_MIN_CHARS));
    }
    if length > limits::PASSWORD_CHARS {
        return Err(format!("A password has at most {} characters.", limits::PASSWORD_CHARS));
    }
    Ok(())
}

/// Hashes a password; a PHC string. Takes tens of milliseconds and 19 MiB.
pub fn hash(password: &str) -> Option<String> {
    argon().hash_password(password.as_bytes()).ok().map(|hash| hash.to_string())
}

/// For names that nobody has: the same work, so that time does not tell which names exist.
static DUMMY: LazyLock<String> = LazyLock::new(|| hash("nobody's password").unwrap_or_default());

/// Compares a password with a stored hash, or with nobody's.
pub fn verify(password: &str, stored: Option<&str>) -> bool {
    let known = stored.is_some();
    let text = stored.unwrap_or(&DUMMY);
    let fits = PasswordHash::new(text).is_ok_and(|hash| argon().verify_password(password.as_bytes(), &hash).is_ok());
    fits && known
}

/// Was the hash made with weaker settings than today's?
pub fn is_outdated(stored: &str) -> bool {
    !stored.starts_with(&format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_verifies() {
        let stored = hash("correct horse").unwrap();
        assert!(verify("correct horse", Some(&stored)) && !is_outdated(&stored));
        assert!(!verify("correct horsf", Some(&stored)));
        assert!(!verify("nobody's password", None), "the dummy is nobody's");
        assert!(!verify("x", Some("not a hash")));
        assert!(is_outdated("$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$aGFzaA"));
    }
}
