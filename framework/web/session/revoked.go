package session

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations returns the table of what is revoked, session_revoked. It lives in the service's own database: pass it to
// database.New.
func Migrations() database.Migrations {
	return database.MigrationsIn(files, "migrations", "session_schema")
}

// Revoked says that a session no longer counts, though it has not expired, or that none does that was signed with a key.
type Revoked struct {
	ID        string    `json:"id"`        // of the session, or of the key
	ExpiresAt time.Time `json:"expiresAt"` // when it ends by itself: nobody needs to remember it for longer
}

// Meta implements event.Event. The ledger keeps something of every key for ever, so the session itself is none: the key is one
// of 256 parts of the day on which the session ends. In which order sessions are revoked does not matter; by so many parts
// they are revoked side by side, and one that gets stuck holds up few others, and those of the next days not at all.
func (e Revoked) Meta() event.Meta {
	part := sha256.Sum256([]byte(e.ID))[0]
	return event.Meta{Stream: "sessions", Type: "session.revoked", Key: fmt.Sprintf("%s-%02x", e.ExpiresAt.UTC().Format(time.DateOnly), part)}
}

const (
	leeway    = 5 * time.Second // by which clocks may differ, for tokens
	forgetful = time.Minute     // after its end something revoked is forgotten

	learnEvery  = time.Second     // a process learns what the others have recorded
	sweepEvery  = 5 * time.Minute // what is over goes, and all is read again
	learnWithin = 5 * time.Second

	// lateCommits is how far back a process looks each time: what was recorded by a slow clock, or in a long transaction,
	// appears late. What is later still it finds when it reads all.
	lateCommits = time.Minute
)

// revocations is what is revoked, as this process knows it: a copy of the table, so that to ask costs no query. A process
// forgets nothing that it knows before its end, whatever becomes of the table. A nil *revocations is empty.
type revocations struct {
	db  *database.DB
	log *slog.Logger

	learned time.Time // when the last reading began
	swept   time.Time
	failing bool

	mu    sync.RWMutex
	until map[string]time.Time // by id: when it can be forgotten
}

func newRevocations(db *database.DB, log *slog.Logger) *revocations {
	if db == nil {
		return nil
	}
	return &revocations{db: db, log: log, until: map[string]time.Time{}}
}

func (l *revocations) has(id string) bool {
	if l == nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	_, ok := l.until[id]
	return ok
}

func (l *revocations) add(all ...Revoked) {
	l.mu.RLock()
	all = slices.DeleteFunc(all, func(r Revoked) bool { return !l.until[r.ID].IsZero() })
	l.mu.RUnlock()
	if len(all) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range all {
		l.until[r.ID] = r.ExpiresAt.Add(forgetful)
	}
}

// record has r known once tx is committed. It reports false if there is nothing new in it.
func (l *revocations) record(ctx context.Context, tx *database.Tx, r Revoked) (bool, error) {
	now := time.Now()
	if r.ExpiresAt.Add(forgetful).Before(now) {
		return false, nil
	}
	done, err := tx.ExecContext(ctx, `
		INSERT INTO session_revoked (id, expires_at, recorded_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`,
		r.ID, r.ExpiresAt.UnixMicro(), now.UnixMicro())
	if err != nil {
		return false, fmt.Errorf("session: revoke %s: %w", r.ID, err)
	}
	n, err := done.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("session: revoke %s: %w", r.ID, err)
	}
	tx.AfterCommit(func() { l.add(r) }) // also what others have recorded, and this process has not read yet
	return n > 0, nil
}

// learn reads what others have recorded: a little more than what is new, or all.
func (l *revocations) learn(ctx context.Context, all bool) error {
	began, since := time.Now(), int64(0)
	if !all {
		since = l.learned.Add(-lateCommits).UnixMicro()
	}
	read, err := database.QueryAll(ctx, l.db, func(row database.Row) (r Revoked, err error) {
		var expires int64
		err = row.Scan(&r.ID, &expires)
		r.ExpiresAt = time.UnixMicro(expires)
		return r, err
	}, `SELECT id, expires_at FROM session_revoked WHERE recorded_at >= $1`, since)
	if err != nil {
		return fmt.Errorf("session: read what is revoked: %w", err)
	}
	l.add(read...)
	l.learned = began
	return nil
}

// sweep forgets what is over, and reads all.
func (l *revocations) sweep(ctx context.Context) error {
	now := time.Now()
	err := l.db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM session_revoked WHERE expires_at < $1`, now.Add(-forgetful).UnixMicro())
		return err
	})
	if err != nil {
		return fmt.Errorf("session: delete what is revoked and over: %w", err)
	}
	if err := l.learn(ctx, true); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.until, func(_ string, until time.Time) bool { return until.Before(now) })
	l.swept = now
	return nil
}

// run keeps the copy up to date until ctx is done. While the database is away it stays as it is.
func (l *revocations) run(ctx context.Context) {
	ticker := time.NewTicker(learnEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := l.refresh(ctx)
		switch {
		case err != nil && ctx.Err() == nil && !l.failing:
			l.failing = true
			l.log.LogAttrs(ctx, slog.LevelWarn, "cannot read which sessions are revoked; those known to be stay so", slog.Any("error", err))
		case err == nil && l.failing:
			l.failing = false
			l.log.LogAttrs(ctx, slog.LevelInfo, "read again which sessions are revoked")
		}
	}
}

func (l *revocations) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	defer cancel()
	if time.Since(l.swept) >= sweepEvery {
		return l.sweep(ctx)
	}
	return l.learn(ctx, false)
}
