package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Tx is a transaction inside InTx, which alone commits it or rolls it back.
// It is not safe for concurrent use.
type Tx struct {
	tx      *sql.Tx
	dialect Dialect

	attached map[any]BeforeCommit
	order    []BeforeCommit
	after    []func()
}

// BeforeCommit is what a part of the framework does last in a transaction.
type BeforeCommit interface {
	BeforeCommit(ctx context.Context, tx *Tx) error
}

// maxTries bounds how often InTx runs a function that keeps losing to others.
const maxTries = 5

// InTx runs fn in a write transaction: it commits when fn returns nil, and
// rolls back when fn returns an error or panics. fn may run several times,
// because a deadlock or a serialization failure is tried again; so what it
// does outside tx must bear repetition, or belong in AfterCommit.
//
// The error of fn is returned as it is. When the commit itself fails, whether
// it took place can be unknown. A commit that has begun is not cancelled with
// ctx: PostgreSQL would make visible what its synchronous standby does not have
// yet, and could lose after others have acted on it.
func (db *DB) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	for try := 1; ; try++ {
		err := db.try(ctx, fn)
		if err == nil || try == maxTries || !Retryable(err) {
			return err
		}
		pause := time.Duration(rand.Int64N(int64(time.Millisecond) << try))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

func (db *DB) try(ctx context.Context, fn func(tx *Tx) error) (err error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	outlive := context.AfterFunc(ctx, end)
	defer outlive()
	conn, inner, err := db.begin(ctx, life)
	if err != nil {
		return err
	}
	defer conn.Close() // back to the pool
	tx := &Tx{tx: inner, dialect: db.dialect}
	done := false
	defer func() {
		if !done {
			// What the rollback itself says adds nothing: without a commit
			// the server forgets the transaction.
			_ = inner.Rollback()
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	for _, b := range tx.order {
		if err := b.BeforeCommit(ctx, tx); err != nil {
			return err
		}
	}
	if !outlive() {
		return fmt.Errorf("database: commit: %w", ctx.Err())
	}
	done = true
	if err := inner.Commit(); err != nil {
		return fmt.Errorf("database: commit: %w", err)
	}
	_ = conn.Close() // what runs after the commit may use the database
	for _, f := range tx.after {
		f()
	}
	return nil
}

// begin takes a connection from the pool and begins a transaction on it. A
// server that restarted leaves the pool with connections that are dead: to find
// one does no harm, and there are no more of them than the pool may have. The
// transaction ends with life, which ends with ctx until it is to commit.
func (db *DB) begin(ctx, life context.Context) (*sql.Conn, *sql.Tx, error) {
	for dead := 0; ; dead++ {
		conn, err := db.connection(ctx)
		if err != nil {
			return nil, nil, err
		}
		tx, err := conn.BeginTx(life, nil)
		if err == nil {
			return conn, tx, nil
		}
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("database: begin: %w", ctx.Err())
		}
		if !Away(err) || dead == db.write.Stats().MaxOpenConnections {
			return nil, nil, fmt.Errorf("database: begin: %w", err)
		}
	}
}

// connectionWait is how long InTx waits for one of the pool's connections.
const connectionWait = 15 * time.Second

// errBusy says that all connections are in use for too long. Somebody who calls
// InTx inside InTx waits for himself.
var errBusy = errors.New("no connection became free; is InTx called inside InTx, or are rows left open?")

func (db *DB) connection(ctx context.Context) (*sql.Conn, error) {
	waiting, cancel := context.WithTimeout(ctx, connectionWait)
	defer cancel()
	conn, err := db.write.Conn(waiting)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("database: %s: %w", db.name, errBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("database: connect to %s: %w", db.name, err)
	}
	return conn, nil
}

// ExecContext runs a statement that returns no rows.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := checkStatement(query); err != nil {
		return nil, err
	}
	return tx.tx.ExecContext(ctx, query, args...)
}

// QueryContext runs a statement that returns rows. They must be closed before
// the next statement.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := checkStatement(query); err != nil {
		return nil, err
	}
	return tx.tx.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a statement that returns at most one row. Use
// QueryContext for a statement whose text is not a constant: this one cannot
// refuse it with an error, so it panics where the others would.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if err := checkStatement(query); err != nil {
		panic(err)
	}
	return tx.tx.QueryRowContext(ctx, query, args...)
}

// Dialect tells the kind of the database.
func (tx *Tx) Dialect() Dialect { return tx.dialect }

// AfterCommit has f called once the transaction is committed, in the order of
// the calls; never if it is rolled back. f must not block.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

// Attach returns what is attached to the transaction under key. The first call
// makes it; its BeforeCommit then runs just before the commit, after those
// attached earlier.
func (tx *Tx) Attach(key any, make func() BeforeCommit) BeforeCommit {
	if b, ok := tx.attached[key]; ok {
		return b
	}
	b := make()
	if tx.attached == nil {
		tx.attached = map[any]BeforeCommit{}
	}
	tx.attached[key] = b
	tx.order = append(tx.order, b)
	return b
}

// checkStatement refuses what would end or nest the transaction behind InTx's
// back.
func checkStatement(query string) error {
	for {
		word, rest := firstWord(query)
		if slices.ContainsFunc(transactionWords, func(w string) bool { return strings.EqualFold(w, word) }) {
			return fmt.Errorf("database: %s is not allowed inside InTx, which alone begins and ends the transaction; return an error to roll back", strings.ToUpper(word))
		}
		i := nextStatement(rest)
		if i < 0 {
			return nil
		}
		query = rest[i:]
	}
}

var transactionWords = []string{"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"}

// firstWord skips white space and comments.
func firstWord(q string) (word, rest string) {
	for {
		q = strings.TrimLeft(q, " \t\r\n\f\v;\ufeff")
		switch {
		case strings.HasPrefix(q, "--"):
			_, q, _ = strings.Cut(q, "\n")
		case strings.HasPrefix(q, "/*"):
			_, q, _ = strings.Cut(q[2:], "*/")
		default:
			n := 0
			for n < len(q) && (q[n]|0x20 >= 'a' && q[n]|0x20 <= 'z' || q[n] == '_') {
				n++
			}
			return q[:n], q[n:]
		}
	}
}

// nextStatement returns where the statement after the first begins, or -1. It
// does not know PostgreSQL's dollar quotes: a semicolon in one begins a
// statement too, which errs on the safe side.
func nextStatement(q string) int {
	for i := 0; i < len(q); i++ {
		switch c := q[i]; {
		case c == ';':
			if strings.TrimSpace(q[i+1:]) == "" {
				return -1
			}
			return i + 1
		case c == '\'' || c == '"' || c == '`':
			end := strings.IndexByte(q[i+1:], c)
			if end < 0 {
				return -1
			}
			i += end + 1
		case strings.HasPrefix(q[i:], "--"):
			end := strings.IndexByte(q[i:], '\n')
			if end < 0 {
				return -1
			}
			i += end
		case strings.HasPrefix(q[i:], "/*"):
			end := strings.Index(q[i+2:], "*/")
			if end < 0 {
				return -1
			}
			i += end + 3
		}
	}
	return -1
}

// Retryable reports whether err is a deadlock, a serialization failure or a
// busy database: nothing was done, and the same transaction can succeed when
// it is run again.
func Retryable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "40001" || e.Code == "40P01" || e.Code == "55P03"
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED
	}
	return false
}

// Away reports whether err says that the database could not be reached, shut the
// connection, had none free, or has no room or no disk to work on, rather than
// that it refused what was asked.
func Away(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, errBusy) {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		// 08: connection; 57P: shut down or starting; 53: out of connections,
		// memory or disk; 25P03: idle in transaction for too long.
		return strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P") ||
			strings.HasPrefix(e.Code, "53") || e.Code == "25P03"
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return true
		}
	}
	return pgconn.SafeToRetry(err) || netError(err)
}

// netError reports whether err comes from the network and not from the server.
func netError(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok && !errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// IsUnique reports whether err is the violation of a unique constraint or
// index. With names, it must be one of them: PostgreSQL tells a constraint's
// or an index's name, SQLite the columns ("users.email"), so give both.
func IsUnique(err error, names ...string) bool {
	var said string
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "23505" {
		said = e.ConstraintName
	} else if e, ok := errors.AsType[*sqlite.Error](err); ok &&
		(e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY) {
		said = e.Error()
	} else {
		return false
	}
	return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(said, n) })
}
