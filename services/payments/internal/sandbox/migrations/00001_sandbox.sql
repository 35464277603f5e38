-- +goose Up

CREATE TABLE sandbox_charges (
    key       TEXT   PRIMARY KEY, -- the asker's idempotency key
    id        TEXT   NOT NULL,
    amount    BIGINT NOT NULL,    -- minor units
    currency  TEXT   NOT NULL,
    token     TEXT   NOT NULL,
    order_id  TEXT   NOT NULL,
    declined  TEXT   NOT NULL,    -- why, or '' when the money was taken
    asked_at  BIGINT NOT NULL     -- microseconds since 1970
);
