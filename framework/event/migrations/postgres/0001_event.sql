-- +goose Up
-- Times are microseconds since 1970-01-01 UTC. Text that is locked in order has
-- the collation "C", so that every side sorts alike.

-- The last number given in each key; its row lock makes commit order sequence order.
CREATE TABLE event_sequence (
    stream  TEXT COLLATE "C" NOT NULL,
    key     TEXT COLLATE "C" NOT NULL,
    last    BIGINT NOT NULL,
    at      BIGINT,
    prev_at BIGINT,
    PRIMARY KEY (stream, key)
);

-- What is committed: not yet sent while sent_at is null, then the archive.
CREATE TABLE event_outbox (
    id       BIGSERIAL PRIMARY KEY,
    stream   TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    type     TEXT NOT NULL,
    body     TEXT NOT NULL,
    at       BIGINT NOT NULL,
    sent_at  BIGINT,
    UNIQUE (stream, key, seq)
);
CREATE INDEX event_outbox_unsent ON event_outbox (id) WHERE sent_at IS NULL;
CREATE INDEX event_outbox_sent ON event_outbox (sent_at) WHERE sent_at IS NOT NULL;

-- What is to be published later; it has no number yet.
CREATE TABLE event_scheduled (
    id       BIGSERIAL PRIMARY KEY,
    stream   TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    event_id TEXT NOT NULL,
    type     TEXT NOT NULL,
    due_at   BIGINT NOT NULL,
    body     TEXT NOT NULL
);
CREATE INDEX event_scheduled_due ON event_scheduled (due_at);

-- How far each listener group has come in each key.
CREATE TABLE event_cursor (
    grp      TEXT COLLATE "C" NOT NULL,
    stream   TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL DEFAULT 0,
    event_id TEXT NOT NULL DEFAULT '',
    parked   BIGINT NOT NULL DEFAULT 0,
    wake_at  BIGINT,
    PRIMARY KEY (grp, stream, key)
);
CREATE INDEX event_cursor_wake ON event_cursor (grp, wake_at) WHERE wake_at IS NOT NULL;

-- What waits: early (for a predecessor), retry (for its next attempt), dead (for an operator).
CREATE TABLE event_parked (
    grp      TEXT COLLATE "C" NOT NULL,
    stream   TEXT COLLATE "C" NOT NULL,
    key      TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL,
    state    TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    due_at   BIGINT NOT NULL,
    error    TEXT NOT NULL,
    body     TEXT NOT NULL,
    at       BIGINT NOT NULL,
    PRIMARY KEY (grp, stream, key, seq)
);
CREATE INDEX event_parked_dead ON event_parked (grp) WHERE state = 'dead';

-- What no cursor can show: malformed messages, gaps that do not close, forked histories.
CREATE TABLE event_letter (
    id     BIGSERIAL PRIMARY KEY,
    grp    TEXT NOT NULL,
    stream TEXT NOT NULL,
    key    TEXT NOT NULL,
    seq    BIGINT NOT NULL,
    kind   TEXT NOT NULL,
    error  TEXT NOT NULL,
    body   TEXT NOT NULL,
    at     BIGINT NOT NULL
);
CREATE INDEX event_letter_key ON event_letter (grp, stream, key, seq);

-- Since when a group listens to a stream, and what it handles there.
CREATE TABLE event_subscription (
    grp    TEXT NOT NULL,
    stream TEXT NOT NULL,
    since  BIGINT NOT NULL,
    PRIMARY KEY (grp, stream)
);
CREATE TABLE event_type (
    grp    TEXT NOT NULL,
    stream TEXT NOT NULL,
    type   TEXT NOT NULL,
    PRIMARY KEY (grp, stream, type)
);

-- Every event handled, if the service is told to keep a journal. Nothing is
-- unique here: it must be able to show what should not have happened.
CREATE TABLE event_journal (
    id         BIGSERIAL PRIMARY KEY,
    grp        TEXT NOT NULL,
    stream     TEXT NOT NULL,
    key        TEXT NOT NULL,
    seq        BIGINT NOT NULL,
    event_id   TEXT NOT NULL,
    type       TEXT NOT NULL,
    applied_at BIGINT NOT NULL
);
CREATE INDEX event_journal_applied ON event_journal (applied_at);
