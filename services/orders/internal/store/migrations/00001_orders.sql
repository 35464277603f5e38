-- +goose Up

-- What we know of the tickets service's tickets; the newest version wins.
CREATE TABLE tickets (
    id      TEXT     PRIMARY KEY,
    title   TEXT     NOT NULL,
    price   BIGINT   NOT NULL, -- minor units
    user_id TEXT     NOT NULL, -- the seller
    version BIGINT   NOT NULL,
    deleted SMALLINT NOT NULL  -- 0 or 1, which is for ever
);

-- Ids are UUIDv7, so their order is the order of creation.
CREATE TABLE orders (
    id           TEXT   PRIMARY KEY,
    user_id      TEXT   NOT NULL, -- the buyer
    status       TEXT   NOT NULL, -- created, complete, cancelled
    expires_at   BIGINT NOT NULL, -- microseconds since 1970
    version      BIGINT NOT NULL,
    ticket_id    TEXT   NOT NULL,
    ticket_title TEXT   NOT NULL,
    ticket_price BIGINT NOT NULL, -- minor units
    payment_id   TEXT   NOT NULL  -- '' unless complete
);

-- A ticket has one live order at most, whoever tries whatever at once.
CREATE UNIQUE INDEX orders_live ON orders (ticket_id) WHERE status IN ('created', 'complete');

CREATE INDEX orders_user ON orders (user_id, id);
