-- +goose Up

CREATE UNIQUE INDEX sandbox_charges_id ON sandbox_charges (id);

-- All the money of a charge goes back, once.
CREATE TABLE sandbox_refunds (
    charge_id TEXT   PRIMARY KEY,
    key       TEXT   NOT NULL UNIQUE, -- the asker's idempotency key
    asked_at  BIGINT NOT NULL         -- microseconds since 1970
);
