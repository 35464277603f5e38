package database_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
)

// The tests of this file have a server fail, or the way to it, and see what a
// process that was in the middle of something makes of it.

// eventually waits until ok says so. It is for what only the database tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no sign of %s within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// must ends the test if what a server was told to do failed.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a database that outlives no test.
func open(t *testing.T, url string, migrations ...database.Migrations) *database.DB {
	t.Helper()
	db, err := database.New(database.Config{URL: url}, migrations...)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	must(t, db.Start(t.Context()))
	return db
}

// lines is a table in which every transaction of a test leaves its name.
func lines() database.Migrations {
	return database.Migrations{Table: "line_schema", Postgres: fstest.MapFS{
		"0001_line.sql": {Data: []byte("-- +goose Up\nCREATE TABLE line (name TEXT NOT NULL);")},
	}}
}

func write(ctx context.Context, db *database.DB, name string) error {
	return db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO line VALUES ($1)", name)
		return err
	})
}

func written(t *testing.T, db *database.DB) []string {
	t.Helper()
	names, err := database.QueryAll(t.Context(), db, func(row database.Row) (name string, err error) {
		err = row.Scan(&name)
		return name, err
	}, "SELECT name FROM line ORDER BY name")
	must(t, err)
	return names
}

// load has writers write until it is stopped, each line once.
type load struct {
	db       *database.DB
	ctx      context.Context
	stop     context.CancelFunc
	writers  sync.WaitGroup
	mu       sync.Mutex
	answered []string // names of the lines whose commit was confirmed
	failed   int
}

func startLoad(t *testing.T, db *database.DB) *load {
	t.Helper()
	l := &load{db: db}
	l.ctx, l.stop = context.WithCancel(context.Background())
	for w := range 8 {
		l.writers.Go(func() {
			for n := 0; l.ctx.Err() == nil; n++ {
				name := fmt.Sprintf("%d-%06d", w, n)
				// The writer does not end in the middle: the outcome of each line
				// but those that meet the failure is known.
				err := write(context.Background(), db, name)
				l.mu.Lock()
				if err == nil {
					l.answered = append(l.answered, name)
				} else {
					l.failed++
					if !database.Away(err) {
						t.Errorf("%s: %v is not told from a refusal", name, err)
					}
				}
				l.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	t.Cleanup(l.end)
	l.awaitProgress(t)
	return l
}

func (l *load) progress() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answered)
}

// awaitProgress waits until the writers get on.
func (l *load) awaitProgress(t *testing.T) {
	t.Helper()
	from := l.progress()
	eventually(t, "progress", func() bool { return l.progress() >= from+100 })
}

func (l *load) end() {
	l.stop()
	l.writers.Wait()
}

// check ends the load and sees that every line that was confirmed is there, and
// none is there twice.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.end()
	there := written(t, l.db)
	if twice := len(there) - len(slices.Compact(slices.Clone(there))); twice > 0 {
		t.Errorf("%d lines were written twice", twice)
	}
	lost := 0
	for _, name := range l.answered {
		if _, ok := slices.BinarySearch(there, name); !ok {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d lines were confirmed and are lost", lost, len(l.answered))
	}
	t.Logf("%d lines confirmed, %d failed, %d there", len(l.answered), l.failed, len(there))
}

func TestServerRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	db := open(t, s.URL("postgres"), lines())
	l := startLoad(t, db)
	for range 2 {
		must(t, s.Restart())
		start := time.Now()
		l.awaitProgress(t)
		t.Logf("writing again %v after the server's start", time.Since(start).Round(time.Millisecond))
	}
	l.check(t)
}

// A process goes on with the standby that takes over, without a new start.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary := databasetest.PostgresServer(t)
	standby, err := primary.Standby(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, standby.Stop()) })
	url := standby.URL("postgres", primary)
	db := open(t, url, lines())
	must(t, write(t.Context(), open(t, strings.Replace(url, "target_session_attrs=read-write&", "", 1)), "by default"))
	heard := listen(t, db, "channel")
	receive(t, heard, "a connection")
	l := startLoad(t, db)
	must(t, primary.Kill())
	must(t, standby.Promote())
	start := time.Now()
	l.awaitProgress(t)
	t.Logf("writing again %v after the promotion", time.Since(start).Round(time.Millisecond))
	l.check(t)
	receive(t, heard, "a new connection")
	must(t, db.Notify(t.Context(), "channel", "hello"))
	if got := receive(t, heard, "a notification"); got != "hello" {
		t.Errorf("heard %q", got)
	}
}

// A commit that waits for the standby goes on waiting when who asked for it goes
// away. A server that is told to stop waiting makes it visible, and an event
// that was sent by then would be forgotten if the standby took over.
func TestCommitIsNotCancelled(t *testing.T) {
	t.Parallel()
	primary := databasetest.PostgresServer(t)
	db := open(t, primary.URL("postgres"), lines())
	standby, err := primary.Standby(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, standby.Stop()) })
	must(t, standby.Kill())
	ctx, goAway := context.WithCancel(t.Context())
	outcome := make(chan error, 1)
	go func() { outcome <- write(ctx, db, "waits") }()
	waiting := func() (n int) {
		must(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").Scan(&n))
		return n
	}
	eventually(t, "a commit that waits for the standby", func() bool { return waiting() == 1 })
	goAway()
	// Whoever begins now has the server look after the one that went away.
	go func() { outcome <- write(t.Context(), db, "waits, too") }()
	eventually(t, "another commit that waits for the standby", func() bool { return waiting() == 2 || len(outcome) > 0 })
	if got := written(t, db); len(got) != 0 {
		t.Errorf("%v can be seen, and the standby has never heard of it", got)
	}
	must(t, standby.Start())
	for range 2 {
		if err := receive(t, outcome, "the outcome"); err != nil {
			t.Errorf("the transaction that waited: %v", err)
		}
	}
	if got := written(t, db); len(got) != 2 {
		t.Errorf("there is %v", got)
	}
}

// When the answer to a commit is lost nobody knows whether it took place: it is
// not tried again.
func TestOutcomeOfACommitIsUnknown(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	link := s.Link(t)
	db := open(t, link.URL("postgres"), lines())
	for name, test := range map[string]struct {
		cut   func(string)
		there bool
	}{
		"before the server has it": {link.CutBefore, false},
		"before its answer":        {link.CutAfter, true},
	} {
		t.Run(name, func(t *testing.T) {
			runs := 0
			test.cut("commit")
			err := db.InTx(t.Context(), func(tx *database.Tx) error {
				runs++
				tx.AfterCommit(func() { t.Error("AfterCommit ran") })
				_, err := tx.ExecContext(t.Context(), "INSERT INTO line VALUES ($1)", name)
				return err
			})
			if err == nil || !database.Away(err) || database.Retryable(err) || runs != 1 {
				t.Errorf("%d runs and the error is %v", runs, err)
			}
			if got := written(t, db); slices.Contains(got, name) != test.there {
				t.Errorf("there is %v; want %q among it: %v", got, name, test.there)
			}
		})
	}
}

func TestConnectionLostInTheMiddle(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	link := s.Link(t)
	db := open(t, link.URL("postgres"), lines())
	link.CutBefore("middle")
	if err := write(t.Context(), db, "middle"); err == nil || !database.Away(err) {
		t.Errorf("the error is %v", err)
	}
	must(t, write(t.Context(), db, "after"))
	if got := written(t, db); !slices.Equal(got, []string{"after"}) {
		t.Errorf("there is %v", got)
	}
}

// Connections of the pool that died while nobody used them cost nobody an error.
func TestDeadConnectionsInThePool(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	link := s.Link(t)
	db := open(t, link.URL("postgres"), lines())
	for round := range 3 {
		var busy, all sync.WaitGroup
		busy.Add(10)
		for n := range 10 {
			all.Go(func() {
				here := sync.OnceFunc(busy.Done)
				defer here()
				if err := db.InTx(t.Context(), func(tx *database.Tx) error {
					here()
					busy.Wait() // the pool has as many connections
					_, err := tx.ExecContext(t.Context(), "INSERT INTO line VALUES ($1)", fmt.Sprint(round, n))
					return err
				}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		link.Cut()
	}
	if got := written(t, open(t, s.URL("postgres"))); len(got) != 30 {
		t.Errorf("%d lines, want 30", len(got))
	}
}

// A write that two transactions could not have made one after the other is
// refused at the commit of the second, which runs again.
func TestSerializationFailureIsTriedAgain(t *testing.T) {
	t.Parallel()
	db := databasetest.Postgres(t, lines())
	var met sync.WaitGroup
	met.Add(2)
	var runs atomic.Int64
	insert := func() error {
		first := true
		return db.InTx(t.Context(), func(tx *database.Tx) error {
			runs.Add(1)
			if _, err := tx.ExecContext(t.Context(), "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"); err != nil {
				return err
			}
			var n int
			if err := tx.QueryRowContext(t.Context(), "SELECT count(*) FROM line").Scan(&n); err != nil {
				return err
			}
			if first {
				first = false
				met.Done()
				met.Wait()
			}
			_, err := tx.ExecContext(t.Context(), "INSERT INTO line VALUES ($1)", fmt.Sprint(n))
			return err
		})
	}
	results := make(chan error, 2)
	for range 2 {
		go func() { results <- insert() }()
	}
	for range 2 {
		if err := receive(t, results, "a commit"); err != nil {
			t.Error(err)
		}
	}
	if got := written(t, db); !slices.Equal(got, []string{"0", "1"}) || runs.Load() < 3 {
		t.Errorf("there is %v after %d runs, want each to count what is before it", got, runs.Load())
	}
}

// A statement that failed cannot be passed over.
func TestFailedStatementFailsTheTransaction(t *testing.T) {
	t.Parallel()
	db := databasetest.Postgres(t, lines())
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		_, _ = tx.ExecContext(t.Context(), "INSERT INTO line VALUES ('a')")
		_, _ = tx.ExecContext(t.Context(), "INSERT INTO line VALUES (NULL)")
		return nil
	})
	if got := written(t, db); err == nil || len(got) != 0 {
		t.Errorf("the error is %v and there is %v", err, got)
	}
}

// What the ledger needs of a session is asked for, unless the URL says otherwise.
func TestSessionSettings(t *testing.T) {
	t.Parallel()
	url := databasetest.PostgresURL(t)
	for url, want := range map[string]map[string]string{
		url: {"synchronous_commit": "on", "idle_in_transaction_session_timeout": "30s"},
		url + "&idle_in_transaction_session_timeout=1min": {"idle_in_transaction_session_timeout": "1min"},
	} {
		db := open(t, url)
		for setting, want := range want {
			var got string
			must(t, db.QueryRowContext(t.Context(), "SHOW "+setting).Scan(&got))
			if got != want {
				t.Errorf("%s is %s, want %s", setting, got, want)
			}
		}
	}
}

// Of eight replicas that start on an empty database the first is cut off in the
// middle of a migration: what it did is undone, and the others do it.
func TestMigrationIsCutOff(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	gate := open(t, s.URL("postgres"), lines()) // locks what the migration waits for
	slow := database.Migrations{Table: "slow_schema", Postgres: fstest.MapFS{
		"0001_slow.sql": {Data: []byte("-- +goose Up\nCREATE TABLE slow (n INT NOT NULL);\nINSERT INTO slow SELECT 1;\nLOCK line;\nINSERT INTO slow SELECT 2;")},
		"0002_more.sql": {Data: []byte("-- +goose Up\nINSERT INTO slow SELECT 3;")},
	}}
	start := func(url string) error {
		db, err := database.New(database.Config{URL: url}, slow)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.Start(context.Background())
	}
	link := s.Link(t)
	victim, others := make(chan error, 1), make(chan error, 7)
	must(t, gate.InTx(t.Context(), func(tx *database.Tx) error {
		if _, err := tx.ExecContext(t.Context(), "LOCK line"); err != nil {
			return err
		}
		go func() { victim <- start(link.URL("postgres")) }()
		eventually(t, "the first replica in the middle", func() bool {
			var n int
			err := gate.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_locks WHERE relation = 'line'::regclass AND NOT granted").Scan(&n)
			return err == nil && n == 1
		})
		for range cap(others) {
			go func() { others <- start(s.URL("postgres")) }()
		}
		link.Cut()
		if err := receive(t, victim, "the end of the first replica"); err == nil {
			t.Error("the replica that was cut off reports no error")
		}
		return nil
	}))
	for range cap(others) {
		if err := receive(t, others, "another replica"); err != nil {
			t.Error(err)
		}
	}
	got, err := database.QueryAll(t.Context(), gate, func(row database.Row) (n int, err error) {
		err = row.Scan(&n)
		return n, err
	}, "SELECT n FROM slow ORDER BY n")
	if err != nil || !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("the migrations made %v (%v), want each once", got, err)
	}
}

// However the connection of Listen ends, there is another, and heard("") says
// so.
func TestListenConnectsAgain(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	link := s.Link(t)
	db := open(t, link.URL("postgres"), lines())
	heard := listen(t, db, "channel")
	receive(t, heard, "a connection")
	var frozen int
	for _, fault := range []struct {
		name   string
		happen func() error
	}{
		{"the server restarts", s.Restart},
		{"the link is cut", func() error { link.Cut(); return nil }},
		{"the server is lost and found", func() error { return errors.Join(s.Kill(), s.Start()) }},
		{"the server says nothing any more", func() error {
			if err := db.QueryRowContext(t.Context(), "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'").Scan(&frozen); err != nil {
				return err
			}
			return syscall.Kill(frozen, syscall.SIGSTOP)
		}},
	} {
		must(t, fault.happen())
		if got := receive(t, heard, "a new connection when "+fault.name); got != "" {
			t.Errorf("when %s: heard %q", fault.name, got)
		}
		eventually(t, "a notification sent when "+fault.name, func() bool { return db.Notify(t.Context(), "channel", fault.name) == nil })
		if got := receive(t, heard, "a notification when "+fault.name); got != fault.name {
			t.Errorf("when %s: heard %q", fault.name, got)
		}
	}
	must(t, syscall.Kill(frozen, syscall.SIGCONT))
}

// A disk that is full is no fault of what was to be written.
func TestNoRoom(t *testing.T) {
	db := databasetest.SQLite(t)
	err := db.InTx(t.Context(), func(tx *database.Tx) error {
		for _, statement := range []string{"CREATE TABLE heap (b BLOB)", "PRAGMA max_page_count = 20", "INSERT INTO heap VALUES (zeroblob(1000000))"} {
			if _, err := tx.ExecContext(t.Context(), statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || !database.Away(err) || database.Retryable(err) {
		t.Errorf("without room: %v, away %v, retryable %v", err, database.Away(err), database.Retryable(err))
	}
}

// Whether the database answers is known without asking, however many ask: not
// while all connections are in use either, which is no fault of the database.
func TestReady(t *testing.T) {
	t.Parallel()
	s := databasetest.PostgresServer(t)
	var queries atomic.Int64
	db, err := database.New(database.Config{URL: s.URL("postgres"), MaxConns: 1, Wrap: func(c driver.Connector) driver.Connector {
		return counting{c, &queries}
	}})
	must(t, err)
	must(t, db.Start(t.Context()))
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- db.Run(ctx) }()
	defer func() {
		stop()
		must(t, <-ran)
	}()
	ready := func() error { return db.Ready()["database"] }
	asked, start := queries.Load(), time.Now()
	for time.Since(start) < 2*time.Second {
		must(t, ready())
	}
	if n := queries.Load() - asked; n == 0 || n > 8 {
		t.Errorf("in two seconds the database was asked %d times", n)
	}
	must(t, db.InTx(t.Context(), func(*database.Tx) error {
		for start := time.Now(); time.Since(start) < 4*time.Second; time.Sleep(time.Millisecond) {
			if err := ready(); err != nil {
				return fmt.Errorf("not ready while the one connection is in use: %w", err)
			}
		}
		return nil
	}))
	must(t, s.Kill())
	eventually(t, "the loss", func() bool { return ready() != nil })
	must(t, s.Start())
	eventually(t, "the return", func() bool { return ready() == nil })
}

// counting counts queries.
type counting struct {
	driver.Connector
	queries *atomic.Int64
}

func (c counting) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return countingConn{conn, c.queries}, err
}

type countingConn struct {
	driver.Conn
	queries *atomic.Int64
}

func (c countingConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.queries.Add(1)
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

func (c countingConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}
