-- +goose Up

CREATE TABLE users (
    id           TEXT   PRIMARY KEY,
    email        TEXT   NOT NULL, -- as it was typed
    email_folded TEXT   NOT NULL, -- user.Fold(email)
    password     TEXT   NOT NULL, -- its argon2id hash
    created_at   BIGINT NOT NULL
);

CREATE UNIQUE INDEX users_email ON users (email_folded);

-- The keys that sessions are signed with. The highest generation signs; all of
-- them verify.
CREATE TABLE signing_keys (
    generation BIGINT PRIMARY KEY, -- 1, 2, 3, …
    id         TEXT   NOT NULL UNIQUE,
    seed       TEXT   NOT NULL,    -- the Ed25519 private key's, in base64
    created_at BIGINT NOT NULL
);
