-- The fence of a table store: which writes are too late.

-- The stamp of the last secondary write of a key. Deleted rows leave theirs as a tombstone.
CREATE TABLE zdm_stamp (
    table_name text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    stamp bigint NOT NULL,
    deleted boolean NOT NULL,
    PRIMARY KEY (table_name, key)
) WITH (fillfactor = 80);

-- The stamp of the last page that was loaded into a range of keys: 00 is open below, 02 open above,
-- 01 stands before the bytes of a key.
CREATE TABLE zdm_page (
    table_name text COLLATE "C" NOT NULL,
    above bytea NOT NULL,
    up_to bytea NOT NULL,
    stamp bigint NOT NULL,
    PRIMARY KEY (table_name, above, up_to)
);

CREATE INDEX zdm_page_by_stamp ON zdm_page (table_name, stamp);

-- The greatest stamp of a table that is not in the others: it outlives them.
CREATE TABLE zdm_fence (
    table_name text COLLATE "C" NOT NULL PRIMARY KEY,
    newest bigint NOT NULL
);
