-- +goose Up

-- Whether the money goes back: '', due, done.
ALTER TABLE payments ADD COLUMN refund TEXT NOT NULL DEFAULT '';

-- The request that began the payment, or ''.
ALTER TABLE payments ADD COLUMN request TEXT NOT NULL DEFAULT '';

-- Somebody asks the provider about a payment that is not settled, and has given
-- up by next_try; then anybody may.
ALTER TABLE payments ADD COLUMN tries INT NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN next_try BIGINT NOT NULL DEFAULT 0; -- microseconds since 1970

DROP INDEX payments_pending;
CREATE INDEX payments_unsettled ON payments (next_try) WHERE status = 'pending' OR refund = 'due';

-- What was captured for a cancelled order was kept until now.
UPDATE payments SET refund = 'due'
WHERE status = 'captured' AND order_id IN (SELECT id FROM orders WHERE status = 'cancelled');
