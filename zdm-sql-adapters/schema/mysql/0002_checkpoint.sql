-- How far each job has come.
CREATE TABLE IF NOT EXISTS zdm_checkpoint (
    job VARBINARY(512) NOT NULL PRIMARY KEY,
    format BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    subject LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    position LONGBLOB NOT NULL,
    updated_at BIGINT NOT NULL
) ENGINE = InnoDB;
