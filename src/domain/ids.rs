//! Names of things: validated once where they enter, trusted everywhere after.

use std::fmt;

use super::limits;

/// Why a name was refused. The text is for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub &'static str);

fn id_text(s: &str) -> bool {
    (1..=limits::ID_CHARS).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:@-".contains(&b))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $valid:expr, $message:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text; the error says what is allowed.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(InvalidId($message)) }
            }

            /// A name that the database holds, and that was checked when it was written.
            pub fn trusted(text: impl Into<Box<str>>) -> Self {
                Self(text.into())
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
    };
}

id!(
    /// A table of the office, as `backroom.toml` names it.
    TableName,
    |s| {
        (1..=limits::TABLE_CHARS).contains(&s.len())
            && s.as_bytes()[0].is_ascii_lowercase()
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    },
    "a table name is a small letter followed by at most 62 small letters, digits or _"
);
id!(
    /// The identity of a record within its table.
    RecordId,
    id_text,
    "an id is 1 to 128 characters of A-Z a-z 0-9 _ . : @ -"
);
id!(
    /// A device: one app on one phone, till or laptop.
    DeviceId,
    id_text,
    "a device id is 1 to 128 characters of A-Z a-z 0-9 _ . : @ -"
);
id!(
    /// A user's name. It is the identity: scopes, audit and devices refer to it.
    UserId,
    |s| id_text(s) && s.len() <= 64,
    "a user name is 1 to 64 characters of A-Z a-z 0-9 _ . : @ -"
);
id!(
    /// A shop. The thing that holds the server's data is the database.
    StoreId,
    id_text,
    "a store is 1 to 128 characters of A-Z a-z 0-9 _ . : @ -"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_tables() {
        for ok in ["a", "uuid-1", "A_b.c:d@e-9", &"x".repeat(128)] {
            assert!(RecordId::parse(ok).is_ok(), "{ok}");
        }
        for bad in ["", " ", "a b", "é", "a/b", "a\0", &"x".repeat(129)] {
            assert!(RecordId::parse(bad).is_err(), "{bad}");
        }
        for ok in ["a", "forms", "kpi_data2", &"x".repeat(63)] {
            assert!(TableName::parse(ok).is_ok(), "{ok}");
        }
        for bad in ["", "Forms", "1a", "_a", "a-b", &"x".repeat(64)] {
            assert!(TableName::parse(bad).is_err(), "{bad}");
        }
    }
}
