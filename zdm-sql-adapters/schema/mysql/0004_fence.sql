-- The fence of a table store: which writes are too late. Every statement may be repeated.

-- The stamp of the last secondary write of a key. Deleted rows leave theirs as a tombstone.
CREATE TABLE IF NOT EXISTS zdm_stamp (
    table_name VARBINARY(260) NOT NULL,
    `key` VARBINARY(2800) NOT NULL,
    stamp BIGINT NOT NULL,
    deleted TINYINT NOT NULL,
    PRIMARY KEY (table_name, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The stamp of the last page that was loaded into a range of keys: 00 is open below, 02 open above,
-- 01 stands before the bytes of a key. The digest stands for both bounds.
CREATE TABLE IF NOT EXISTS zdm_page (
    table_name VARBINARY(260) NOT NULL,
    digest BINARY(32) NOT NULL,
    above LONGBLOB NOT NULL,
    up_to LONGBLOB NOT NULL,
    stamp BIGINT NOT NULL,
    PRIMARY KEY (table_name, digest),
    KEY zdm_page_by_stamp (table_name, stamp)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The greatest stamp that a table has seen, as far as no other row tells. It outlives the stamps.
CREATE TABLE IF NOT EXISTS zdm_fence (
    table_name VARBINARY(260) NOT NULL PRIMARY KEY,
    newest BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Eight rows for each table, which hold nothing: a page locks one of them, a live write shares them all.
CREATE TABLE IF NOT EXISTS zdm_slot (
    table_name VARBINARY(260) NOT NULL,
    slot TINYINT NOT NULL,
    PRIMARY KEY (table_name, slot)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
