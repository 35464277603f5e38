-- +goose Up
-- Which brokers this outbox has been sent to. What was marked sent before since
-- was not sent to that broker; what was marked sent from missing_since on may
-- be missing there.
CREATE TABLE event_broker (
    broker        TEXT PRIMARY KEY,
    since         BIGINT NOT NULL,
    missing_since BIGINT
);

-- Which processes of the service run, and the brokers that each uses, joined by
-- a plus. A process that has not been seen for a while has ended.
CREATE TABLE event_process (
    process    TEXT PRIMARY KEY,
    brokers    TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);

-- Who does what only one process should do, and until when.
CREATE TABLE event_lease (
    name   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  BIGINT NOT NULL
);

-- Attempts of handlers that failed, for as long as the archive. Number 0 is what
-- an operator did about the event.
CREATE TABLE event_attempt (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    grp      TEXT NOT NULL,
    stream   TEXT NOT NULL,
    key      TEXT NOT NULL,
    seq      BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    attempt  BIGINT NOT NULL,
    error    TEXT NOT NULL,
    at       BIGINT NOT NULL
);
CREATE INDEX event_attempt_key ON event_attempt (stream, key, seq);
CREATE INDEX event_attempt_at ON event_attempt (at);
CREATE INDEX event_journal_key ON event_journal (stream, key, seq);
