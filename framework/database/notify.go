package database

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

// notifyTimeout bounds how long a hint may hold up who gives it.
const notifyTimeout = 5 * time.Second

// The listening connection is silent for most of the time, so that it is asked
// now and then whether its server is still there.
const (
	listenPing    = 5 * time.Second
	listenTimeout = 5 * time.Second // for an answer
	listenRetry   = 5 * time.Second // the longest pause between tries to connect
)

// Notify tells everyone who listens on the channel, in whichever process. It is
// a hint, not a delivery: who is not connected at that moment never hears it.
// It gives up after 5 s. It does nothing on SQLite, where there is one process.
//
// The statement is a transaction of its own. PostgreSQL orders notifications by
// a lock on the whole database that a transaction takes at its commit: as a part
// of the one that it tells of, it would have commits wait for each other.
func (db *DB) Notify(ctx context.Context, channel, payload string) error {
	if db.dialect != Postgres {
		return nil
	}
	err := within(ctx, notifyTimeout, func(ctx context.Context) error {
		_, err := db.write.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel, payload)
		return err
	})
	if err != nil {
		return fmt.Errorf("database: notify %s: %w", channel, err)
	}
	return nil
}

// Listen calls heard with the payload of every notification on the channel, one
// at a time, until ctx is done; then it returns ctx's error. heard must not
// block.
//
// It has a connection of its own, which it makes again for ever. Each time it
// has one it calls heard(""), since notifications may have been missed. On
// SQLite it only waits.
func (db *DB) Listen(ctx context.Context, channel string, heard func(payload string)) error {
	if db.dialect != Postgres {
		<-ctx.Done()
		return ctx.Err()
	}
	pause := time.Duration(0)
	for ctx.Err() == nil {
		if connected := db.listen(ctx, channel, heard); connected {
			pause = 0
		}
		pause = min(max(2*pause, 100*time.Millisecond), listenRetry)
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// listen does so over one connection, until that is lost. It reports whether
// there was one. Why there was none the pool's users hear as well.
func (db *DB) listen(ctx context.Context, channel string, heard func(payload string)) (connected bool) {
	conn, err := pgx.ConnectConfig(ctx, db.postgres.Copy())
	if err != nil {
		return false
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if err := within(ctx, listenTimeout, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize())
		return err
	}); err != nil {
		return false
	}
	heard("")
	for {
		var payload string
		err := within(ctx, listenPing, func(ctx context.Context) error {
			n, err := conn.WaitForNotification(ctx)
			if err == nil {
				payload = n.Payload
			}
			return err
		})
		switch {
		case err == nil:
			heard(payload)
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return true
		case within(ctx, listenTimeout, conn.Ping) != nil:
			return true
		}
	}
}

// within calls f with a context that ends after d.
func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}
