-- +goose Up

-- What we know of the orders service's orders; the newest version wins.
CREATE TABLE orders (
    id         TEXT   PRIMARY KEY,
    user_id    TEXT   NOT NULL, -- the buyer
    price      BIGINT NOT NULL, -- minor units
    status     TEXT   NOT NULL, -- created, complete, cancelled
    expires_at BIGINT NOT NULL, -- microseconds since 1970
    version    BIGINT NOT NULL
);

-- Ids are UUIDv7, so their order is the order of creation.
CREATE TABLE payments (
    id        TEXT   PRIMARY KEY,
    order_id  TEXT   NOT NULL,
    user_id   TEXT   NOT NULL,
    amount    BIGINT NOT NULL, -- minor units
    currency  TEXT   NOT NULL,
    status    TEXT   NOT NULL, -- pending, captured, declined
    token     TEXT   NOT NULL, -- '' unless pending
    charge_id TEXT   NOT NULL, -- '' unless captured
    reason    TEXT   NOT NULL  -- '' unless declined
);

-- An order is paid once: while one payment is pending or has succeeded, there
-- is no other.
CREATE UNIQUE INDEX payments_live ON payments (order_id) WHERE status <> 'declined';

CREATE INDEX payments_pending ON payments (id) WHERE status = 'pending';

CREATE INDEX payments_user ON payments (user_id, id);
