-- +goose Up

-- How a hash begins, up to its salt, tells its cost: what is cut off is the key
-- and the salt, both in base64. By this index the costs that there are can be
-- listed without a look at every user.
CREATE INDEX users_cost ON users (
    rtrim(rtrim(rtrim(password, 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'), '$'),
        'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/')
);
