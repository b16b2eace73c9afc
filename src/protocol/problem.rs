//! Problems (RFC 9457): one stable code for everything that can go wrong, with its status and title.

use serde::Serialize;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $status:literal, $title:literal;)*) => {
        /// A stable code. Clients decide by it; the sentence beside it is for people and may change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The word on the wire.
            pub fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// The HTTP status of an answer that is this problem.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// A short title, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not of this call's shape.
    InvalidRequest = "invalid_request", 400, "The request is not understood";
    /// The cursor was not written by this server.
    InvalidCursor = "invalid_cursor", 400, "The cursor is not one of this server's";
    /// No token, or one that nobody holds.
    Unauthorized = "unauthorized", 401, "Sign in first";
    /// Wrong name or wrong password.
    BadCredentials = "bad_credentials", 401, "The name or the password is wrong";
    /// The device's access was taken away, or its user was disabled.
    DeviceRevoked = "device_revoked", 401, "This device may no longer sync";
    /// The role does not allow it.
    Forbidden = "forbidden", 403, "Not allowed";
    /// `device_id` is not the token's device.
    DeviceMismatch = "device_mismatch", 403, "The token belongs to another device";
    /// The request comes from another origin or names another host.
    ForbiddenOrigin = "forbidden_origin", 403, "The request comes from somewhere else";
    /// The code is unknown, used or expired.
    InvalidCode = "invalid_code", 403, "The code is not valid";
    /// Nothing there, or nothing that this device may see.
    NotFound = "not_found", 404, "Not found";
    /// The path exists, with another method.
    MethodNotAllowed = "method_not_allowed", 405, "This method does not apply here";
    /// The body did not arrive in time.
    RequestTimeout = "request_timeout", 408, "The request took too long to arrive";
    /// The cursor is of another line of history: pull, give back, then push.
    EpochChanged = "epoch_changed", 409, "The server was restored";
    /// The conflict was decided before.
    ConflictClosed = "conflict_closed", 409, "The conflict is closed";
    /// The record is not as the person saw it.
    ConflictChanged = "conflict_changed", 409, "The record has changed meanwhile";
    /// Another record of the feed holds the same unique values.
    UniqueTaken = "unique_taken", 409, "Another record has these values";
    /// An atomic push in which something would be refused.
    BatchRefused = "batch_refused", 409, "Nothing was applied";
    /// Larger than a limit.
    PayloadTooLarge = "payload_too_large", 413, "Too large";
    /// Not JSON, or an encoding that is not understood.
    UnsupportedMediaType = "unsupported_media_type", 415, "This kind of body is not understood";
    /// A table that the rules do not name.
    UnknownTable = "unknown_table", 422, "The rules name no such table";
    /// A change that is not a valid record.
    InvalidRecord = "invalid_record", 422, "Not a valid record";
    /// A new record must name its store.
    StoreRequired = "store_required", 422, "The record must name its store";
    /// The table is append-only.
    Immutable = "immutable", 422, "Records of this table do not change";
    /// The record was purged.
    Gone = "gone", 410, "The record was deleted for good";
    /// The operation's id was used before for something else.
    OpIdReused = "op_id_reused", 422, "The operation id was used before";
    /// The address is for WebSockets.
    UpgradeRequired = "upgrade_required", 426, "Connect with a WebSocket";
    /// The device has as many live connections as it may.
    TooManySockets = "too_many_sockets", 429, "Too many live connections";
    /// More requests than the rate limit allows.
    RateLimited = "rate_limited", 429, "Too many requests";
    /// Something failed inside; the log has the cause.
    Internal = "internal", 500, "Something failed inside the appliance";
    /// Writes are refused for now.
    Paused = "paused", 503, "Writes are paused";
    /// Too much waits already, or the appliance is stopping.
    Unavailable = "unavailable", 503, "Not available right now";
    /// The disk is full.
    StorageFull = "storage_full", 507, "The disk is full";
}

/// The body of every error.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// `urn:backroom:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code's title.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened here, for a person.
    pub detail: String,
    /// The stable code.
    pub code: &'static str,
    /// Names the request in the log.
    pub request_id: String,
    /// The record's present version, where another one was expected; 0: there is no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
}

impl Problem {
    /// A problem; the request's id is filled in on the way out.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("urn:backroom:problem:{}", code.word()),
            title: code.title(),
            status: code.status(),
            detail: detail.into(),
            code: code.word(),
            request_id: String::new(),
            version: None,
        }
    }
}
