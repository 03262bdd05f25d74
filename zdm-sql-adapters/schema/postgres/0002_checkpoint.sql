-- How far each job has come.
CREATE TABLE zdm_checkpoint (
    job text COLLATE "C" PRIMARY KEY,
    format bigint NOT NULL,
    sequence bigint NOT NULL,
    subject text NOT NULL,
    position bytea NOT NULL,
    updated_at bigint NOT NULL
);
