-- The phases of migrations, and the instances that follow them.

-- Where each migration stands.
CREATE TABLE IF NOT EXISTS zdm_phase (
    migration VARBINARY(512) NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL,
    record LONGTEXT CHARACTER SET utf8mb4 NOT NULL
) ENGINE = InnoDB;

-- Every move, by the epoch that it began.
CREATE TABLE IF NOT EXISTS zdm_phase_move (
    migration VARBINARY(512) NOT NULL,
    epoch BIGINT NOT NULL,
    move LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    PRIMARY KEY (migration, epoch)
) ENGINE = InnoDB;

-- What the instances have said last, and until when it holds. Times are the server's, in UTC.
CREATE TABLE IF NOT EXISTS zdm_phase_member (
    migration VARBINARY(512) NOT NULL,
    name VARBINARY(512) NOT NULL,
    acked BIGINT NOT NULL,
    drained BIGINT NOT NULL,
    until DATETIME(6) NOT NULL,
    PRIMARY KEY (migration, name)
) ENGINE = InnoDB;
