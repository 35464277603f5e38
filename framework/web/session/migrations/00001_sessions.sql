-- +goose Up

-- What is revoked before it expires: sessions, and keys with all that they have
-- signed. A row goes when nothing that it concerns could still be valid.
CREATE TABLE session_revoked (
    id          TEXT   PRIMARY KEY, -- a token's jti, or a key's kid
    expires_at  BIGINT NOT NULL,
    recorded_at BIGINT NOT NULL     -- by the clock of who did
);

CREATE INDEX session_revoked_expires ON session_revoked (expires_at);

CREATE INDEX session_revoked_recorded ON session_revoked (recorded_at);
