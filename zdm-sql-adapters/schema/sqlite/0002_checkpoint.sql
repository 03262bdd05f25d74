-- How far each job has come.
CREATE TABLE zdm_checkpoint (
    job TEXT NOT NULL PRIMARY KEY,
    format INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    subject TEXT NOT NULL,
    position BLOB NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
