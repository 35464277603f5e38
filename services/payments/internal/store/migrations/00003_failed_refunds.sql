-- +goose Up

-- A refund may also be failed, and the reason then says why, or hand: somebody has
-- given the money back after that.
CREATE INDEX payments_kept ON payments (id) WHERE refund = 'failed';
