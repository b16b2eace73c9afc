//! Every bound of the protocol, each with its reason. Configuration may lower them, never raise them.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

/// Bytes of one request body after decompression. A phone that was offline for a week fits; a zip bomb does not.
pub const BODY_BYTES: usize = 8 << 20;
/// Changes in one push. One push is one savepoint: more would hold up the other devices' pushes.
pub const PUSH_CHANGES: usize = 5_000;
/// Bytes of one record in canonical form. Pictures belong in attachments, not in rows.
pub const RECORD_BYTES: usize = 1 << 20;
/// Nesting of arrays and objects in a record: deeper trees are mistakes, and recursion must end.
pub const JSON_DEPTH: usize = 64;
/// Characters of an id: a UUID with any prefix fits, an essay does not.
pub const ID_CHARS: usize = 128;
/// Characters of a table name, one letter and 62 more: PostgreSQL's identifier length.
pub const TABLE_CHARS: usize = 63;
/// Tables that a pull may name: more than any office has, so that a list of them stays small.
pub const PULL_TABLES: usize = 1_000;
/// Records in one page of a pull.
pub const PAGE_RECORDS: usize = 10_000;
/// Records in a page whose request names no limit.
pub const PAGE_DEFAULT: usize = 1_000;
/// Bytes of record data in one page; a page ends early rather than grow past it (one record always fits).
pub const PAGE_BYTES: usize = 8 << 20;
/// Characters of an operation's id.
pub const OP_ID_CHARS: usize = 128;
/// Bytes kept of a rejected change's body.
pub const REJECTED_BODY_BYTES: usize = 64 << 10;
/// Rejected changes kept for each device; the oldest go first.
pub const REJECTED_PER_DEVICE: usize = 1_000;
/// Versions that one decision walks back for its base. Beyond it the base counts as unknown.
pub const LINEAGE_VERSIONS: usize = 10_000;
/// How long a verify may read. Longer, and a reader is missing where pulls wait for one.
pub const VERIFY: Duration = Duration::from_secs(5);
/// Bytes of those versions, since a decision has them all in memory.
pub const LINEAGE_BYTES: usize = 32 << 20;
/// Characters of names and labels that people or devices give (device name, platform, app version).
pub const LABEL_CHARS: usize = 200;
/// Characters of a password, so that hashing stays bounded.
pub const PASSWORD_CHARS: usize = 1_024;
/// Fewest characters of a password (NIST SP 800-63B, section 5.1.1.2).
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Entries in one page of a list (devices, history).
pub const LIST_ENTRIES: usize = 500;
/// Bytes of one message of a live connection: a change with the largest record fits, written with escapes. More goes by HTTP.
pub const MESSAGE_BYTES: usize = 2 << 20;
/// Live connections of one device: an app that opens a second before the first is gone is not refused.
pub const DEVICE_SOCKETS: usize = 256;
/// Messages a second that a live connection may send in the long run: nobody types so fast, and apps push in batches.
pub const MESSAGES_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Messages that it may send at once after a quiet time.
pub const MESSAGES_BURST: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
/// Bytes of a table's script. It is read by people, and compiled once.
pub const SCRIPT_BYTES: usize = 64 << 10;
/// Time of one call of a script, of the processor: a call takes microseconds, so this is a loop without an end.
pub const SCRIPT_CALL: Duration = Duration::from_millis(5);
/// Time of all scripts of one push, so that a push cannot hold up its neighbours however many changes it brings.
pub const SCRIPT_PUSH: Duration = Duration::from_millis(100);
/// Operations of one call: an end that does not depend on the machine.
pub const SCRIPT_OPERATIONS: u64 = 1_000_000;
/// Calls within calls in a script. With the nesting of expressions it bounds the stack.
pub const SCRIPT_CALLS_DEEP: usize = 16;
/// Nesting of expressions and blocks in a script.
pub const SCRIPT_NESTING: usize = 32;
/// Variables that one function of a script has at once.
pub const SCRIPT_VARIABLES: usize = 256;
/// Stack of a thread that runs scripts and checks schemas. Memory is used only as far as they reach down.
pub const RULES_STACK_BYTES: usize = 8 << 20;
/// Functions of one script.
pub const SCRIPT_FUNCTIONS: usize = 256;
/// Bytes of all texts within one value of a script. A text function runs through a text in one operation, so this bounds
/// the time of one.
pub const SCRIPT_TEXT_BYTES: usize = 256 << 10;
/// Entries of all lists within one value of a script, and members of all its objects, for the same reason.
pub const SCRIPT_ITEMS: usize = 10_000;
/// Bytes of a table's schema.
pub const SCHEMA_BYTES: usize = 256 << 10;
/// Schemas within a schema, so that compiling it stays short.
pub const SCHEMA_NODES: usize = 5_000;
/// Schemas that apply to one and the same value, all references followed. A few references to each other could unfold to more
/// than there is time for.
pub const SCHEMA_WIDTH: usize = 2_000;
/// How deep schemas that apply to the same value lie within each other: with the nesting of records it bounds the stack.
pub const SCHEMA_CHAIN: usize = 32;
/// Patterns of a schema. Each is a program that is compiled with it.
pub const SCHEMA_PATTERNS: usize = 100;
/// Bytes of one compiled pattern, which is what matching a byte of text may cost.
pub const SCHEMA_PATTERN_BYTES: usize = 256 << 10;
/// Bytes of what stands in a `not`.
pub const SCHEMA_NOT_BYTES: usize = 2 << 10;
/// Looks at a record while it is checked, of a few nanoseconds each, and as many more for every byte of it: a schema that is
/// no puzzle needs a few for each value.
pub const SCHEMA_FUEL: u64 = 100_000;
/// Looks for each byte.
pub const SCHEMA_FUEL_BYTE: u64 = 32;
/// Characters of what a script or a schema says is wrong.
pub const REASON_CHARS: usize = 300;

/// The largest number in a device's report: far beyond what is true, and sums of them stay exact.
pub const REPORTED: u64 = 1_000_000_000_000;

/// The limits as `GET /api/v1/sync/status` reports them.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// Bytes of a decoded request body.
    pub body_bytes: usize,
    /// Changes in one push.
    pub push_changes: usize,
    /// Bytes of one record.
    pub record_bytes: usize,
    /// Nesting of a record.
    pub json_depth: usize,
    /// Characters of an id.
    pub id_chars: usize,
    /// Records in one page.
    pub page_records: usize,
    /// Bytes of one message of a live connection.
    pub message_bytes: usize,
    /// Live connections of one device.
    pub device_sockets: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: BODY_BYTES,
            push_changes: PUSH_CHANGES,
            record_bytes: RECORD_BYTES,
            json_depth: JSON_DEPTH,
            id_chars: ID_CHARS,
            page_records: PAGE_RECORDS,
            message_bytes: MESSAGE_BYTES,
            device_sockets: DEVICE_SOCKETS,
        }
    }
}
