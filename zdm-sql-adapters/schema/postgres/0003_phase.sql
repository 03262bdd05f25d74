-- The phases of migrations, and the instances that follow them.

-- Where each migration stands.
CREATE TABLE zdm_phase (
    migration text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    record text NOT NULL
);

-- Every move, by the epoch that it began.
CREATE TABLE zdm_phase_move (
    migration text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    move text NOT NULL,
    PRIMARY KEY (migration, epoch)
);

-- What the instances have said last, and until when it holds. Times are the server's.
CREATE TABLE zdm_phase_member (
    migration text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    acked bigint NOT NULL,
    drained bigint NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (migration, name)
);
