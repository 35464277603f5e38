-- +goose Up

-- Of the keys whose time has come, the one whose time came last signs. Those
-- whose time is still to come are published, so that everybody knows them by
-- then; the others stay published for as long as what they signed is valid.
ALTER TABLE signing_keys ADD COLUMN signs_from BIGINT NOT NULL DEFAULT 0;

UPDATE signing_keys SET signs_from = created_at;
