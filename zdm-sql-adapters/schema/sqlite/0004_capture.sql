-- What triggers have noted. The columns of a key hold its parts as they were written, in their own class.
CREATE TABLE zdm_capture (
    id INTEGER PRIMARY KEY,
    table_name TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    k0, k1, k2, k3, k4, k5
);

CREATE INDEX zdm_capture_by_table ON zdm_capture (table_name, id);

-- A row stands here within a transaction that mirrors a write from the other side. No other connection ever
-- sees it, because SQLite has one writer.
CREATE TABLE zdm_mirroring (id INTEGER PRIMARY KEY) STRICT;
