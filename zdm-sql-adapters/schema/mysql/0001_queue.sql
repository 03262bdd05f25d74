-- The secondary-write queues that instances share.

-- Numbers that nobody gets twice. Never rolled back below a number that was used.
CREATE TABLE IF NOT EXISTS zdm_counter (
    name VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB;

INSERT INTO zdm_counter (name, value) VALUES ('seat', 0), ('entry', 0), ('stamp', 0)
    ON DUPLICATE KEY UPDATE name = zdm_counter.name;

-- One queue for each migration.
CREATE TABLE IF NOT EXISTS zdm_queue (
    id BIGINT NOT NULL PRIMARY KEY,
    migration VARBINARY(512) NOT NULL UNIQUE
) ENGINE = InnoDB;

-- The instances that take part. Times are the server's, in UTC.
CREATE TABLE IF NOT EXISTS zdm_queue_instance (
    id BIGINT NOT NULL PRIMARY KEY,
    queue BIGINT NOT NULL,
    name VARBINARY(512) NOT NULL,
    alive_until DATETIME(6) NOT NULL,
    dead BOOLEAN NOT NULL,
    watching BOOLEAN NOT NULL,
    KEY (queue)
) ENGINE = InnoDB;

-- What is pending. The owner is an instance, or the queue itself when nobody looks after the row yet. A row
-- is removed when the entry is acknowledged.
CREATE TABLE IF NOT EXISTS zdm_queue_entry (
    owner BIGINT NOT NULL,
    id BIGINT NOT NULL,
    touch LONGBLOB NOT NULL,
    epoch BIGINT NOT NULL,
    new_to_old BOOLEAN NOT NULL,
    opened_at BIGINT NOT NULL,
    parked BOOLEAN NOT NULL,
    attempts INT NOT NULL,
    last_error LONGTEXT CHARACTER SET utf8mb4,
    PRIMARY KEY (owner, id)
) ENGINE = InnoDB;

-- The keys that are being reconciled, or that rest until a time. Long keys are cut off.
CREATE TABLE IF NOT EXISTS zdm_queue_key (
    queue BIGINT NOT NULL,
    locked VARBINARY(512) NOT NULL,
    owner BIGINT NOT NULL,
    number BIGINT NOT NULL,
    free_at DATETIME(6),
    PRIMARY KEY (queue, locked)
) ENGINE = InnoDB;

-- The same for ranges. A bound of NULL is open.
CREATE TABLE IF NOT EXISTS zdm_queue_range (
    queue BIGINT NOT NULL,
    owner BIGINT NOT NULL,
    number BIGINT NOT NULL,
    above VARBINARY(512),
    up_to VARBINARY(512),
    free_at DATETIME(6),
    PRIMARY KEY (queue, owner, number)
) ENGINE = InnoDB;

-- Ranges whose dirt may be unrecorded. A bound of NULL is open.
CREATE TABLE IF NOT EXISTS zdm_queue_taint (
    queue BIGINT NOT NULL,
    id BIGINT NOT NULL,
    above LONGBLOB,
    up_to LONGBLOB,
    since BIGINT NOT NULL,
    reason LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    PRIMARY KEY (queue, id)
) ENGINE = InnoDB;

-- What was removed while an instance watched, for that instance.
CREATE TABLE IF NOT EXISTS zdm_queue_trace (
    watcher BIGINT NOT NULL,
    id BIGINT NOT NULL,
    touch LONGBLOB NOT NULL,
    PRIMARY KEY (watcher, id)
) ENGINE = InnoDB;
