-- In changes, fidelity 3 says that the table's script derived fields: `sent` has what the device sent, as with 0.

-- What a conflict says about its decision, and what a person made of it. Columns without a value are null in conflicts that
-- are older than this file.

ALTER TABLE conflicts ADD COLUMN winners TEXT;            -- JSON array: who won each of `fields`: client, server, merged or none
ALTER TABLE conflicts ADD COLUMN detail TEXT;             -- more about why, for a person
ALTER TABLE conflicts ADD COLUMN because TEXT;            -- reason of the suggestion
ALTER TABLE conflicts ADD COLUMN merged TEXT;             -- the record that is suggested, where it is neither side's
ALTER TABLE conflicts ADD COLUMN server_user INTEGER;     -- users.no of the server's side
ALTER TABLE conflicts ADD COLUMN server_device INTEGER;   -- devices.no of it
ALTER TABLE conflicts ADD COLUMN server_role TEXT;        -- its author's role then
ALTER TABLE conflicts ADD COLUMN server_edited_at INTEGER; -- its edit, corrected
ALTER TABLE conflicts ADD COLUMN resolution TEXT;         -- use_server, use_client or use_merged, where a person decided
ALTER TABLE conflicts ADD COLUMN resolved_by INTEGER;     -- users.no
ALTER TABLE conflicts ADD COLUMN resolved_at INTEGER;
ALTER TABLE conflicts ADD COLUMN resolved_version INTEGER; -- the record's version after it
ALTER TABLE conflicts ADD COLUMN reverted INTEGER NOT NULL DEFAULT 0; -- 1: an earlier decision was taken back

-- The inbox is read newest first: by table, and by whose changes they are. (Ids are in the order of their time, and stand at
-- the end of every index.)
CREATE INDEX conflicts_of_table ON conflicts (tbl, status);
CREATE INDEX conflicts_of_user ON conflicts (user, status);
