-- The appliance's database. Times are microseconds since 1970 UTC unless a column says otherwise;
-- hashes are the first 16 bytes of SHA-256; `no` is a number given here to a thing whose name is long.

-- Single values: epoch, epoch_began, floor, accounts, rules, view, paused, setup, …
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tables (
  no   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE            -- as backroom.toml names it
) STRICT;

-- A (table, scope value) pair: what a device may see as a whole or not at all.
CREATE TABLE feeds (
  no         INTEGER PRIMARY KEY,
  tbl        INTEGER NOT NULL REFERENCES tables (no),
  scope      TEXT NOT NULL,            -- store or user; '' for office tables
  head       INTEGER NOT NULL,         -- seq of its newest change or eviction
  records    INTEGER NOT NULL,         -- live records
  tombstones INTEGER NOT NULL,         -- deleted, not yet purged
  UNIQUE (tbl, scope)
) STRICT;

-- The log of everything accepted, and the records themselves: the row with `next` null is a record's present state,
-- the others are its history.
CREATE TABLE changes (
  seq         INTEGER PRIMARY KEY,     -- commit order
  feed        INTEGER NOT NULL,        -- feeds.no
  id          TEXT NOT NULL,           -- the record's id
  version     INTEGER NOT NULL,        -- 1, 2, 3 … of the record
  device      INTEGER,                 -- devices.no; null for a person's decision
  user        INTEGER NOT NULL,        -- users.no of the author
  role        TEXT NOT NULL,           -- the author's role then
  op          BLOB NOT NULL,           -- hash of the operation's id
  body        BLOB NOT NULL,           -- hash of what the operation said
  named       INTEGER NOT NULL,        -- 1: the client gave the operation an op_id
  updated_at  INTEGER NOT NULL,        -- the edit, by the device's clock
  edited_at   INTEGER NOT NULL,        -- the edit, corrected to the server's clock
  received_at INTEGER NOT NULL,        -- acceptance, by the server's clock; strictly increasing with seq
  hash        BLOB NOT NULL,           -- of data
  deleted     INTEGER NOT NULL,        -- 1: a tombstone; data is the last live content
  fidelity    INTEGER NOT NULL,        -- 2: stored exactly as sent; 1: the scope was filled in; 0: merged
  previous    INTEGER,                 -- seq of the version before; null for the first
  next        INTEGER,                 -- seq of the version after; null for the present one
  rule        TEXT,                    -- the rule that decided it, where there was a conflict
  sent        TEXT,                    -- what the device sent, where fidelity is 0
  data        TEXT NOT NULL            -- the app's fields as canonical JSON
) STRICT;

-- The order that pulls read: a feed's present records by seq.
CREATE INDEX feed_order ON changes (feed, seq, deleted) WHERE next IS NULL;
-- What retention removes: history by the time it was superseded, tombstones by age.
CREATE INDEX superseded ON changes (next) WHERE next IS NOT NULL;
CREATE INDEX tombstones ON changes (seq) WHERE deleted = 1 AND next IS NULL;
-- Exactly once, for operations that the client names. Unnamed ones are found from their record.
CREATE UNIQUE INDEX operations ON changes (device, op) WHERE named = 1;

-- Where a record's present state is.
CREATE TABLE heads (
  tbl INTEGER NOT NULL,                -- tables.no
  id  ANY NOT NULL,                    -- the record's id: a UUID in its usual form as 16 bytes, which halves this table; else text
  seq INTEGER NOT NULL,                -- changes.seq
  PRIMARY KEY (tbl, id)
) STRICT, WITHOUT ROWID;

-- Records that left a feed.
CREATE TABLE evictions (
  feed INTEGER NOT NULL,               -- the feed that was left
  seq  INTEGER NOT NULL,               -- the change that moved it
  tbl  INTEGER NOT NULL,
  id   TEXT NOT NULL,
  PRIMARY KEY (feed, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX evictions_by_seq ON evictions (seq);

-- Purged records: nothing is resurrected.
CREATE TABLE graves (
  key BLOB PRIMARY KEY                 -- hash of table and id
) STRICT, WITHOUT ROWID;

-- Keys of tables with `unique`, for live records.
CREATE TABLE unique_keys (
  feed INTEGER NOT NULL,
  key  BLOB NOT NULL,                  -- hash of the key fields' values
  id   TEXT NOT NULL,
  PRIMARY KEY (feed, key)
) STRICT, WITHOUT ROWID;

-- Answers to operations that left no row in changes, or whose row was purged.
CREATE TABLE receipts (
  device      INTEGER NOT NULL,
  op          BLOB NOT NULL,
  body        BLOB NOT NULL,
  tbl         INTEGER NOT NULL,
  id          TEXT NOT NULL,
  outcome     TEXT NOT NULL,           -- applied, merged, noop, conflict, late (a conflict) or rejected
  conflict    TEXT,                    -- conflicts.id
  code        TEXT,                    -- of a rejection
  detail      TEXT,                    -- of a rejection
  sent        TEXT,                    -- content as sent; null for a delete or a rejection
  updated_at  INTEGER NOT NULL,        -- by the device's clock
  version     INTEGER NOT NULL,        -- the record's after it, 0 for none
  clean       INTEGER NOT NULL,        -- 1: the record was then exactly what was sent
  seq         INTEGER NOT NULL,        -- the database's head after it
  received_at INTEGER NOT NULL,
  PRIMARY KEY (device, op)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipts_of_record ON receipts (tbl, id, device, seq);
CREATE INDEX receipts_by_seq ON receipts (seq);

CREATE TABLE conflicts (
  id             TEXT PRIMARY KEY,     -- UUIDv7
  tbl            INTEGER NOT NULL,
  record         TEXT NOT NULL,        -- the record's id
  feed           INTEGER NOT NULL,     -- the record's feed then
  device         INTEGER,
  user           INTEGER NOT NULL,
  role           TEXT NOT NULL,
  op             BLOB NOT NULL,
  op_id          TEXT,                 -- as the client named it
  rule           TEXT NOT NULL,
  winner         TEXT NOT NULL,        -- client, server or none
  why            TEXT NOT NULL,        -- rule, late, gap, left_view or unique
  suggest        TEXT NOT NULL,        -- use_client or use_server
  fields         TEXT NOT NULL,        -- JSON array of names, or ["*"]
  status         TEXT NOT NULL,        -- open or resolved
  base           TEXT,                 -- what the edit began from, where known
  server         TEXT,                 -- the server's content before
  server_id      TEXT,                 -- id of the server's record, where it is another one (unique)
  server_version INTEGER NOT NULL,
  server_deleted INTEGER NOT NULL,
  server_updated_at INTEGER NOT NULL,
  client         TEXT,                 -- the content sent; null for a delete
  updated_at     INTEGER NOT NULL,     -- the edit, by the device's clock
  edited_at      INTEGER NOT NULL,     -- the edit, corrected
  version        INTEGER NOT NULL,     -- the record's after the decision
  seq            INTEGER NOT NULL,     -- the database's head after it
  created_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX conflicts_by_status ON conflicts (status, id);
CREATE INDEX conflicts_of_record ON conflicts (tbl, record, device);
CREATE INDEX conflicts_of_op ON conflicts (device, op);
CREATE INDEX conflicts_of_feed ON conflicts (feed, status);

-- Refused changes: kept so that nothing is lost silently.
CREATE TABLE rejections (
  no          INTEGER PRIMARY KEY,
  device      INTEGER NOT NULL,
  tbl         TEXT NOT NULL,           -- as sent; may name no table
  record      TEXT,                    -- as sent, where it was readable
  op          BLOB NOT NULL,           -- what a retry repeats
  op_id       TEXT,
  code        TEXT NOT NULL,
  detail      TEXT NOT NULL,
  body        TEXT NOT NULL,           -- the change as sent, first 64 KiB
  times       INTEGER NOT NULL,        -- how often it was sent
  received_at INTEGER NOT NULL,        -- last time
  UNIQUE (device, op)
) STRICT;
CREATE INDEX rejections_of_device ON rejections (device, no);
CREATE INDEX rejections_by_time ON rejections (received_at);

-- Accepted changes and conflicts an hour, for the figures of a day.
CREATE TABLE activity (
  hour      INTEGER NOT NULL,          -- hours since 1970 UTC
  feed      INTEGER NOT NULL,
  changes   INTEGER NOT NULL,
  conflicts INTEGER NOT NULL,
  PRIMARY KEY (hour, feed)
) STRICT, WITHOUT ROWID;

CREATE TABLE stores (
  id         TEXT PRIMARY KEY,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
  no          INTEGER PRIMARY KEY,
  name        TEXT NOT NULL UNIQUE COLLATE NOCASE,
  role        TEXT NOT NULL,
  password    TEXT,                    -- argon2id, PHC string; null: no password login
  disabled_at INTEGER,
  view        INTEGER NOT NULL,        -- raised by every change of role or stores
  access      INTEGER NOT NULL,        -- raised by every change of password, role or stores, and by disabling: ends sessions
  created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE user_stores (
  user  INTEGER NOT NULL REFERENCES users (no),
  store TEXT NOT NULL REFERENCES stores (id),
  PRIMARY KEY (user, store)
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
  no          INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  user        INTEGER NOT NULL REFERENCES users (no),
  name        TEXT NOT NULL,
  platform    TEXT NOT NULL,
  app_version TEXT NOT NULL,
  token       BLOB NOT NULL UNIQUE,    -- SHA-256 of the token, 32 bytes
  created_at  INTEGER NOT NULL,
  revoked_at  INTEGER,
  seen_at     INTEGER,                 -- last request
  pushed_at   INTEGER,                 -- last push
  pulled_at   INTEGER,                 -- last pull
  skew        INTEGER,                 -- its clock minus the server's, microseconds
  cursor      INTEGER NOT NULL,        -- seq that it last presented in a pull; 0: never
  view        INTEGER NOT NULL,        -- generation of the view that this cursor was of
  pulled      INTEGER NOT NULL,        -- 1: it has presented a finished pull's cursor
  tables      TEXT NOT NULL,           -- JSON {table: time of last pull}
  report      TEXT                     -- JSON, as it last reported
) STRICT;

CREATE TABLE invitations (
  code       BLOB PRIMARY KEY,         -- SHA-256 of the code
  user       INTEGER NOT NULL REFERENCES users (no),
  invited_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at    INTEGER
) STRICT, WITHOUT ROWID;

-- Who did what. Rows are only ever added.
CREATE TABLE audit (
  no      INTEGER PRIMARY KEY,
  at      INTEGER NOT NULL,
  actor   TEXT NOT NULL,               -- user name, or 'console'
  action  TEXT NOT NULL,               -- login, enroll, revoke, …
  subject TEXT NOT NULL,               -- what it was done to
  detail  TEXT NOT NULL                -- JSON object
) STRICT;
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
