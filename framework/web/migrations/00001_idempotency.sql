-- +goose Up

-- The requests that brought an Idempotency-Key. Nothing of the key, the body or the answer can be read here: what tells
-- of them is hashed or encrypted with keys that are derived from the client's. Times are microseconds since 1970.
CREATE TABLE idempotency_keys (
    id            TEXT   PRIMARY KEY, -- hash of the operation, the caller and the key
    fingerprint   TEXT   NOT NULL,    -- keyed hash of the request
    claim         TEXT   NOT NULL,    -- who works on it, a random name
    claimed_until BIGINT NOT NULL,    -- when that cannot be any more
    answer        TEXT   NOT NULL,    -- encrypted; '' while there is none
    expires_at    BIGINT NOT NULL
);

CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);
