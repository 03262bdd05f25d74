-- The secondary-write queue of one migration.

-- One row: the migration that the queue belongs to, the stamps that are set aside, and the greatest id that
-- an entry has had.
CREATE TABLE zdm_queue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    migration TEXT NOT NULL,
    stamps_below INTEGER NOT NULL,
    newest_id INTEGER NOT NULL
) STRICT;

-- What is pending. A row is removed when the entry is acknowledged.
CREATE TABLE zdm_queue_entry (
    id INTEGER PRIMARY KEY,
    touch BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    new_to_old INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    last_error TEXT
) STRICT;

-- Ranges whose dirt may be unrecorded. A bound of NULL is open.
CREATE TABLE zdm_queue_taint (
    id INTEGER PRIMARY KEY,
    above BLOB,
    up_to BLOB,
    since INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
