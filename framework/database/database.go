// Package database opens a service's own database, PostgreSQL in a cluster or
// SQLite embedded, and runs its transactions.
//
// There is one way to write: [DB.InTx]. The transaction it gives cannot be
// committed, rolled back or nested by the function that uses it, because what
// must happen last in a transaction (taking the numbers of published events)
// and after it (waking the relay) hangs on its end.
//
// SQL is written in the subset that both databases share, with $1 placeholders.
//
// A DB survives its server: when that restarts, or another takes over, what is
// under way fails ([Away]), and what comes after finds the server that is there.
// Processes on one PostgreSQL wake each other with [DB.Notify] and [DB.Listen].
package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

// Config says which database to open.
type Config struct {
	// URL is postgres://user:password@host/name, sqlite:path/to/file, or
	// sqlite::memory: for one that lives as long as its DB. Of several hosts,
	// postgres://…@one,two/name, the one that takes writes is used, unless
	// target_session_attrs says otherwise.
	URL string `env:"DATABASE_URL,required" doc:"postgres://user:password@host/name or sqlite:path/to/file" example:"sqlite:data/service.db" secret:"true"`

	// MaxConns bounds the connections to PostgreSQL. Zero means 10.
	MaxConns int `env:"DATABASE_MAX_CONNS" envDefault:"10" doc:"the most connections to PostgreSQL"`

	// Wrap, if set, wraps the driver's connector, to trace statements or to
	// inject faults. It does not concern the connection of Listen.
	Wrap func(driver.Connector) driver.Connector `env:"-" json:"-"`
}

// Dialect is the kind of a database.
type Dialect string

// The two kinds of database.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Querier is what reads need: a *DB outside a transaction, a *Tx inside one.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// DB is a service's database. Its reads run outside any transaction; writes go
// through InTx.
//
// SQLite has one writer: InTx calls queue in the process, so a function inside
// InTx must use its Tx, never the DB. Reads do not wait for the writer.
type DB struct {
	dialect    Dialect
	name       string // for messages: no password
	migrations []Migrations
	dir        string // of the SQLite file, to be created

	write    *sql.DB
	read     *sql.DB // the same as write but for SQLite files
	postgres *pgx.ConnConfig
	away     atomic.Pointer[error] // why it did not answer when it was asked last
}

// New describes a database without opening it: no file is made and nothing is
// connected before the first use. It returns an error if the URL is malformed.
func New(cfg Config, migrations ...Migrations) (*DB, error) {
	db := &DB{migrations: migrations}
	wrap := cfg.Wrap
	if wrap == nil {
		wrap = func(c driver.Connector) driver.Connector { return c }
	}
	scheme, rest, _ := strings.Cut(cfg.URL, ":")
	switch scheme {
	case "postgres", "postgresql":
		pc, err := pgx.ParseConfig(cfg.URL)
		if err != nil {
			return nil, fmt.Errorf("database: DATABASE_URL: %w", err) // pgx leaves the password out
		}
		// A client that vanishes inside a transaction holds cursors and
		// sequence rows; the server takes them back.
		setDefault(pc.RuntimeParams, "idle_in_transaction_session_timeout", "30s")
		// A number that was given to an event must not be lost.
		setDefault(pc.RuntimeParams, "synchronous_commit", "on")
		setDefault(pc.RuntimeParams, "tcp_keepalives_idle", "10")
		setDefault(pc.RuntimeParams, "tcp_keepalives_interval", "5")
		setDefault(pc.RuntimeParams, "tcp_keepalives_count", "3")
		if pc.ConnectTimeout == 0 {
			pc.ConnectTimeout = 5 * time.Second
		}
		pc.DialFunc = dial
		if hasSeveralHosts(pc) && !strings.Contains(cfg.URL, "target_session_attrs") {
			// Those that only follow are of no use.
			pc.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		}
		db.dialect, db.postgres = Postgres, pc
		db.name = fmt.Sprintf("postgres://%s:%d/%s", pc.Host, pc.Port, pc.Database)
		db.write = sql.OpenDB(wrap(stdlib.GetConnector(*pc)))
		n := cfg.MaxConns
		if n <= 0 {
			n = 10
		}
		db.write.SetMaxOpenConns(n)
		db.write.SetMaxIdleConns(n)
		db.write.SetConnMaxIdleTime(5 * time.Minute)
		db.write.SetConnMaxLifetime(time.Hour)
		db.read = db.write
		return db, nil

	case "sqlite":
		db.dialect = SQLite
		db.name = cfg.URL
		if rest == ":memory:" {
			// One connection is the database.
			var err error
			if db.write, err = openSQLite(":memory:?_pragma=foreign_keys(1)&_txlock=immediate", wrap, 1); err != nil {
				return nil, err
			}
			db.read = db.write
			return db, nil
		}
		path := strings.TrimPrefix(rest, "//")
		if path == "" || strings.ContainsAny(path, "?#") {
			return nil, fmt.Errorf("database: DATABASE_URL %q: want sqlite:path/to/file", cfg.URL)
		}
		db.dir = filepath.Dir(path)
		// synchronous(2) is FULL: a sequence number that was committed must
		// survive the loss of power, or it would be given to another event.
		file := "file:" + path + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(2)&_pragma=foreign_keys(1)"
		var err error
		if db.write, err = openSQLite(file+"&_txlock=immediate", wrap, 1); err != nil {
			return nil, err
		}
		if db.read, err = openSQLite(file+"&_pragma=query_only(1)", wrap, 4); err != nil {
			return nil, err
		}
		return db, nil
	}
	if cfg.URL == "" {
		return nil, errors.New("database: DATABASE_URL is not set: want postgres://user:password@host/name or sqlite:path/to/file")
	}
	return nil, fmt.Errorf("database: DATABASE_URL begins with %q: want postgres://… or sqlite:…", scheme)
}

func openSQLite(dsn string, wrap func(driver.Connector) driver.Connector, conns int) (*sql.DB, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	pool := sql.OpenDB(wrap(keepStatements{c}))
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	return pool, nil
}

// hasSeveralHosts reports whether there is more than one server to connect to:
// the same one is there twice if it is tried with TLS and without.
func hasSeveralHosts(pc *pgx.ConnConfig) bool {
	return slices.ContainsFunc(pc.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != pc.Host || f.Port != pc.Port })
}

func setDefault(m map[string]string, k, v string) {
	if _, ok := m[k]; !ok {
		m[k] = v
	}
}

// Dialect tells the kind of the database.
func (db *DB) Dialect() Dialect { return db.dialect }

// String names the database for people, without its password.
func (db *DB) String() string { return db.name }

// QueryContext reads outside a transaction.
func (db *DB) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, query, args...)
}

// QueryRowContext reads one row outside a transaction.
func (db *DB) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return db.read.QueryRowContext(ctx, query, args...)
}

// Writers returns how many transactions of InTx can run at once: one on SQLite.
func (db *DB) Writers() int { return db.write.Stats().MaxOpenConnections }

// Start connects and brings the schema up to date.
func (db *DB) Start(ctx context.Context) error {
	if db.dir != "" {
		if err := os.MkdirAll(db.dir, 0o755); err != nil {
			return fmt.Errorf("database: make the folder of %s: %w", db.name, err)
		}
	}
	if err := db.write.PingContext(ctx); err != nil {
		return fmt.Errorf("database: connect to %s: %w", db.name, err)
	}
	return db.migrate(ctx)
}

// Migrate is Start by the name under which `<service> migrate` calls it.
func (db *DB) Migrate(ctx context.Context) error { return db.Start(ctx) }

// askEvery is how often the database is asked whether it answers, and askTimeout
// how long it has. Connections that are all in use for less than busyFor say
// nothing about it.
const (
	askEvery   = time.Second / 2
	askTimeout = 2 * time.Second
	busyFor    = 10 * time.Second
)

// Run keeps the database open, and knows whether it answers, until ctx is done;
// then it closes it.
func (db *DB) Run(ctx context.Context) error {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for answered := time.Now(); ; {
		select {
		case <-ctx.Done():
			return db.Close()
		case <-ticker.C:
		}
		err := within(ctx, askTimeout, func(ctx context.Context) error {
			var one int
			return db.read.QueryRowContext(ctx, "SELECT 1").Scan(&one)
		})
		stats := db.read.Stats()
		busy := errors.Is(err, context.DeadlineExceeded) && stats.InUse == stats.MaxOpenConnections
		if busy && time.Since(answered) < busyFor || ctx.Err() != nil {
			continue
		}
		if err == nil {
			answered = time.Now()
			db.away.Store(nil)
		} else {
			db.away.Store(&err)
		}
	}
}

// Ready reports, under the name "database", whether the database answered when
// Run asked it last, up to half a second ago.
func (db *DB) Ready() map[string]error {
	if err := db.away.Load(); err != nil {
		return map[string]error{"database": *err}
	}
	return map[string]error{"database": nil}
}

// Close closes every connection; transactions under way fail.
func (db *DB) Close() error {
	err := db.write.Close()
	if db.read != db.write {
		err = errors.Join(err, db.read.Close())
	}
	return err
}
