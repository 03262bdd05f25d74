-- The fence of a table store: which writes are too late.

-- The stamp of the last secondary write of a key. Deleted rows leave theirs as a tombstone.
CREATE TABLE zdm_stamp (
    table_name TEXT NOT NULL,
    key BLOB NOT NULL,
    stamp INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (table_name, key)
) STRICT, WITHOUT ROWID;

-- The stamp of the last page that was loaded into a range of keys: 00 is open below, 02 open above,
-- 01 stands before the bytes of a key.
CREATE TABLE zdm_page (
    table_name TEXT NOT NULL,
    above BLOB NOT NULL,
    up_to BLOB NOT NULL,
    stamp INTEGER NOT NULL,
    PRIMARY KEY (table_name, above, up_to)
) STRICT, WITHOUT ROWID;

CREATE INDEX zdm_page_by_stamp ON zdm_page (table_name, stamp);

-- The greatest stamp that a table has seen. It outlives the stamps.
CREATE TABLE zdm_fence (
    table_name TEXT NOT NULL PRIMARY KEY,
    newest INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
