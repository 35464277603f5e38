package event_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"

	"github.com/turnstile-go/turnstile/framework/event"
)

// process stands for an operating system process in a test: once it has
// crashed, nothing that it still does reaches its database or its broker. The
// process that a call belongs to travels in its context.
type process struct {
	mu     sync.Mutex
	dead   bool
	cutOff bool // its database does not answer
	steps  int  // database calls left before it crashes; negative for no limit
	ended  []func()
	cancel context.CancelFunc
}

type processKey struct{}

var errCrashed = errors.New("the process has crashed")

func newProcess(parent context.Context) (*process, context.Context) {
	p := &process{steps: -1}
	ctx, cancel := context.WithCancel(context.WithValue(parent, processKey{}, p))
	p.cancel = cancel
	return p, ctx
}

func (p *process) crash() {
	p.mu.Lock()
	ended := p.ended
	p.dead, p.ended = true, nil
	p.mu.Unlock()
	p.cancel()
	for _, f := range ended {
		f()
	}
}

// crashAfter has the process crash at the n-th database call from now.
func (p *process) crashAfter(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = n
}

func (p *process) atEnd(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, f)
}

// cut has the process's database be silent from now on.
func (p *process) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutOff = true
}

// step is one database call. It returns an error if the process is dead.
func step(ctx context.Context) error {
	p, _ := ctx.Value(processKey{}).(*process)
	if p == nil {
		return nil
	}
	p.mu.Lock()
	crash := !p.dead && p.steps == 0
	if p.steps >= 0 {
		p.steps--
	}
	dead, silent := p.dead, p.cutOff
	p.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	if crash {
		p.crash()
		return errCrashed
	}
	if dead {
		return errCrashed
	}
	return nil
}

// fragile wraps a driver so that a crashed process cannot use the database.
type fragile struct {
	driver.Connector
	schema string // what every connection begins with: one to memory is a database
}

func (f fragile) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := f.Connector.Connect(ctx)
	if err == nil && f.schema != "" {
		_, err = c.(driver.ExecerContext).ExecContext(ctx, f.schema, nil)
	}
	return fragileConn{c}, err
}

type fragileConn struct{ driver.Conn }

func (c fragileConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := step(ctx); err != nil {
		return nil, err
	}
	tx, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
	return fragileTx{tx, ctx}, err
}

func (c fragileConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	if err := step(ctx); err != nil {
		return nil, err
	}
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c fragileConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	if err := step(ctx); err != nil {
		return nil, err
	}
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

// ResetSession and IsValid have the pool keep a connection after a rollback,
// as it does for the driver itself: one connection is an in-memory database.
func (c fragileConn) ResetSession(ctx context.Context) error {
	return c.Conn.(driver.SessionResetter).ResetSession(ctx)
}

func (c fragileConn) IsValid() bool {
	v, ok := c.Conn.(driver.Validator)
	return !ok || v.IsValid()
}

// CheckNamedValue lets the driver have its say where it has one.
func (c fragileConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// fragileTx crashes before a commit or after it: then it took place, and
// nobody knows.
type fragileTx struct {
	driver.Tx
	ctx context.Context
}

func (tx fragileTx) Commit() error {
	if err := step(tx.ctx); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Tx.Commit(); err != nil {
		return err
	}
	return step(tx.ctx)
}

// fragileBroker ends a process's sessions when it crashes.
type fragileBroker struct {
	event.Broker
	process *process
}

func (b fragileBroker) Connect(ctx context.Context) (event.Session, error) {
	b.process.mu.Lock()
	dead := b.process.dead
	b.process.mu.Unlock()
	if dead {
		return nil, errCrashed
	}
	s, err := b.Broker.Connect(ctx)
	if err == nil {
		b.process.atEnd(func() { _ = s.Close() })
	}
	return s, err
}
