//! Random secrets: device tokens, invitation codes, session and set-up codes. Stored only as hashes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// SHA-256 of a secret. Secrets have at least 128 random bits, so a fast hash is enough.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

/// 256 random bits behind a prefix that tells people and secret scanners what it is. `None`: the system has no randomness.
pub fn secret(prefix: &str) -> Option<String> {
    random::<32>().map(|bytes| format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// A device's token.
pub fn device_token() -> Option<String> {
    secret("bkr_dev_")
}

/// Letters and digits that nobody confuses when reading aloud (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A code to be typed: 26 characters in groups, 130 random bits.
pub fn code() -> Option<String> {
    let bytes = random::<26>()?;
    let symbols: Vec<char> = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    Some(symbols.chunks(7).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-"))
}

/// A typed code without its dashes, spaces and case, look-alikes mended.
pub fn normal_code(typed: &str) -> String {
    let mend = |c: char| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        c => c,
    };
    typed.chars().filter(|c| c.is_ascii_alphanumeric()).take(64).map(mend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_typing() {
        let code = code().unwrap();
        assert_eq!(code.len(), 26 + 3);
        assert_eq!(normal_code(&code.to_lowercase().replace('-', " ").replace('0', "o")), normal_code(&code));
        assert_ne!(device_token(), device_token());
        assert!(device_token().unwrap().starts_with("bkr_dev_"));
    }
}
