-- +goose Up

-- Ids are UUIDv7, so their order is the order of creation.
CREATE TABLE tickets (
    id           TEXT     PRIMARY KEY,
    title        TEXT     NOT NULL,
    title_folded TEXT     NOT NULL, -- ticket.Fold(title), for searching
    price        BIGINT   NOT NULL, -- minor units
    user_id      TEXT     NOT NULL,
    version      BIGINT   NOT NULL,
    order_id     TEXT     NOT NULL, -- '' while the ticket can be bought
    sold         SMALLINT NOT NULL  -- 0 or 1
);

CREATE INDEX tickets_for_sale ON tickets (id) WHERE order_id = '';

CREATE INDEX tickets_user ON tickets (user_id, id);

-- Orders that have taken over a ticket while another's cancellation is still on
-- its way to us.
CREATE TABLE waiting (
    ticket_id TEXT NOT NULL,
    order_id  TEXT NOT NULL,
    PRIMARY KEY (ticket_id, order_id)
);
