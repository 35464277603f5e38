package event_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"strings"
	"sync"
	"testing"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
)

// The tests of the files postgres_… are about what SQLite, with its one writer,
// cannot show: locks, replicas that work at the same time, and servers that
// fail.

// statements hears of every statement that goes to a database.
type statements struct {
	driver.Connector
	log *statementLog
}

// statementLog keeps what each transaction consisted of.
type statementLog struct {
	mu        sync.Mutex
	committed [][]string         // one list of statements a transaction
	before    func(query string) // called before every statement, if not nil
}

// last returns the statements of the newest transaction with one that contains
// the text.
func (l *statementLog) last(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.committed) - 1; i >= 0; i-- {
		for _, s := range l.committed[i] {
			if strings.Contains(s, text) {
				return l.committed[i]
			}
		}
	}
	return nil
}

// callBefore has f called before the next statement that contains the text.
func (l *statementLog) callBefore(text string, f func()) {
	once := sync.OnceFunc(f)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before = func(query string) {
		if strings.Contains(query, text) {
			once()
		}
	}
}

func (s statements) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := s.Connector.Connect(ctx)
	return &statementConn{fragileConn{c}, s.log, nil}, err
}

type statementConn struct {
	fragileConn
	log     *statementLog
	current []string
}

func (c *statementConn) note(query string) {
	c.current = append(c.current, query)
	c.log.mu.Lock()
	before := c.log.before
	c.log.mu.Unlock()
	if before != nil {
		before(query)
	}
}

func (c *statementConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	c.current = nil
	tx, err := c.fragileConn.BeginTx(ctx, opts)
	return statementTx{tx, c}, err
}

func (c *statementConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.note(q)
	return c.fragileConn.ExecContext(ctx, q, args)
}

func (c *statementConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.note(q)
	return c.fragileConn.QueryContext(ctx, q, args)
}

type statementTx struct {
	driver.Tx
	c *statementConn
}

func (tx statementTx) Commit() error {
	err := tx.Tx.Commit()
	if err == nil {
		tx.c.log.mu.Lock()
		defer tx.c.log.mu.Unlock()
		tx.c.log.committed = append(tx.c.log.committed, tx.c.current)
	}
	return err
}

// openLogged opens a database whose statements are logged.
func openLogged(t *testing.T, url string) (*database.DB, *statementLog) {
	t.Helper()
	log := &statementLog{}
	db, err := database.New(database.Config{URL: url, MaxConns: 20, Wrap: func(c driver.Connector) driver.Connector {
		return statements{c, log}
	}}, event.Migrations(), effects())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db, log
}

// rival is somebody else's transaction, which holds what it locked until it is
// rolled back.
func rival(t *testing.T, url, statement string, args ...any) (letGo func()) {
	t.Helper()
	pool, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
	letGo = sync.OnceFunc(func() {
		_ = tx.Rollback()
		_ = pool.Close()
	})
	t.Cleanup(letGo)
	return letGo
}

// free returns what a statement finds that nobody holds; it must end with SKIP
// LOCKED.
func free(t *testing.T, db *database.DB, query string) []string {
	t.Helper()
	var keys []string
	if err := db.InTx(t.Context(), func(tx *database.Tx) (err error) {
		keys, err = database.QueryAll(t.Context(), tx, func(row database.Row) (key string, err error) {
			err = row.Scan(&key)
			return key, err
		}, query)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// waiting waits until so many statements wait for a lock in the database.
func waiting(t *testing.T, db *database.DB, n int) {
	t.Helper()
	eventually(t, "a wait for a lock", func() bool {
		return count(t.Context(), db, "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == n
	})
}
