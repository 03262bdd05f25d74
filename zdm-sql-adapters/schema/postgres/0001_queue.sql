-- The secondary-write queues that instances share.

-- Numbers of queues and instances.
CREATE SEQUENCE zdm_queue_seat;

-- Each number stands for 10,000 ids.
CREATE SEQUENCE zdm_queue_entry_id INCREMENT BY 10000 MINVALUE 1;

CREATE SEQUENCE zdm_queue_stamp;

-- One queue for each migration. Its stamps are greater than the number here.
CREATE TABLE zdm_queue (
    id bigint PRIMARY KEY,
    migration text COLLATE "C" NOT NULL UNIQUE,
    stamps_above bigint NOT NULL
);

-- The instances that take part. Times are the server's.
CREATE TABLE zdm_queue_instance (
    id bigint PRIMARY KEY,
    queue bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    alive_until timestamptz NOT NULL,
    dead boolean NOT NULL,
    watching boolean NOT NULL
);

-- What is pending. The owner is an instance, or the queue itself when nobody looks after the row yet. A row
-- is removed when the entry is acknowledged.
CREATE TABLE zdm_queue_entry (
    owner bigint NOT NULL,
    id bigint NOT NULL,
    touch bytea NOT NULL,
    epoch bigint NOT NULL,
    new_to_old boolean NOT NULL,
    opened_at bigint NOT NULL,
    parked boolean NOT NULL,
    attempts integer NOT NULL,
    last_error text,
    PRIMARY KEY (owner, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- The keys that are being reconciled, or that rest until a time. Long keys are cut off.
CREATE TABLE zdm_queue_key (
    queue bigint NOT NULL,
    locked bytea NOT NULL,
    owner bigint NOT NULL,
    number bigint NOT NULL,
    free_at timestamptz,
    PRIMARY KEY (queue, locked)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);

-- The same for ranges. A bound of NULL is open.
CREATE TABLE zdm_queue_range (
    queue bigint NOT NULL,
    owner bigint NOT NULL,
    number bigint NOT NULL,
    above bytea,
    up_to bytea,
    free_at timestamptz,
    PRIMARY KEY (queue, owner, number)
);

-- Ranges whose dirt may be unrecorded. A bound of NULL is open.
CREATE TABLE zdm_queue_taint (
    queue bigint NOT NULL,
    id bigint NOT NULL,
    above bytea,
    up_to bytea,
    since bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (queue, id)
);

-- What was removed while an instance watched, for that instance.
CREATE TABLE zdm_queue_trace (
    watcher bigint NOT NULL,
    id bigint NOT NULL,
    touch bytea NOT NULL,
    PRIMARY KEY (watcher, id)
);
