package database

import (
	"context"
	"database/sql/driver"
)

// keepStatements has every connection keep the statements that come twice: to
// SQLite, preparing one often costs more than running it. (The PostgreSQL
// driver does the same by itself.)
type keepStatements struct{ driver.Connector }

// maxStatements bounds what a connection keeps. A service has some dozens of
// statements; beyond the bound they are prepared each time.
const maxStatements = 256

func (k keepStatements) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &keepingConn{Conn: c, kept: map[string]*kept{}}, nil
}

// keepingConn is used by one goroutine at a time, as every driver.Conn is.
type keepingConn struct {
	driver.Conn
	kept map[string]*kept // nil for a query that came once
}

// kept is a prepared statement. While its rows are being read it cannot run a
// second time.
type kept struct {
	driver.Stmt
	busy bool
}

// statement returns the kept statement of the query, or nil if there is none
// to use.
func (c *keepingConn) statement(ctx context.Context, query string) (*kept, error) {
	k, seen := c.kept[query]
	switch {
	case k != nil && !k.busy:
		return k, nil
	case k != nil:
		return nil, nil
	case !seen && len(c.kept) < maxStatements:
		c.kept[query] = nil
		return nil, nil
	case !seen:
		return nil, nil
	}
	s, err := c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	k = &kept{Stmt: s}
	c.kept[query] = k
	return k, nil
}

func (c *keepingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	k, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	}
	return k.Stmt.(driver.StmtExecContext).ExecContext(ctx, args)
}

func (c *keepingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	k, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	}
	rows, err := k.Stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	k.busy = true
	return &keptRows{Rows: rows, of: k}, nil
}

// keptRows frees its statement when it is closed.
type keptRows struct {
	driver.Rows
	of *kept
}

func (r *keptRows) Close() error {
	r.of.busy = false
	return r.Rows.Close()
}

func (c *keepingConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}

func (c *keepingConn) Ping(ctx context.Context) error {
	return c.Conn.(driver.Pinger).Ping(ctx)
}

// ResetSession and IsValid let the pool keep a connection after a rollback.
func (c *keepingConn) ResetSession(ctx context.Context) error {
	return c.Conn.(driver.SessionResetter).ResetSession(ctx)
}

func (c *keepingConn) IsValid() bool { return c.Conn.(driver.Validator).IsValid() }

func (c *keepingConn) Close() error {
	for _, k := range c.kept {
		if k != nil {
			_ = k.Close() // the connection's end frees it all the same
		}
	}
	return c.Conn.Close()
}
