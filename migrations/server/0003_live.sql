-- What is known of devices beside what they pushed, and what the figures of a day and a week are made of.

ALTER TABLE devices ADD COLUMN given TEXT;            -- JSON {"view": …, "tables": {tables.no: seq}}: what pulls have given it; null: nothing
ALTER TABLE devices ADD COLUMN reported_at INTEGER;   -- when `report` came

-- Pushes and pulls of known devices.
CREATE TABLE hours (
  hour   INTEGER PRIMARY KEY,          -- hours since 1970 UTC
  served INTEGER NOT NULL,
  failed INTEGER NOT NULL,             -- answered with a problem
  micros INTEGER NOT NULL              -- what the served ones took together, microseconds
) STRICT;
