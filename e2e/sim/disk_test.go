package sim

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
)

// disk is a service's database: one connection to SQLite in memory, which outlives the processes that use it. What a
// process commits is there for its successor; what it had not committed when it died is not.
type disk struct {
	conn driver.Conn   // made by the first process of the first run, with the schema
	free chan struct{} // holds an element while nobody is at the disk; made anew for each run
	tx   *diskTx       // under way; nil for none
}

// empty makes the disk ready for a run: all tables are empty, but for those that record which migrations were made.
func (d *disk) empty() error {
	d.free, d.tx = make(chan struct{}, 1), nil
	d.free <- struct{}{}
	if d.conn == nil {
		return nil
	}
	tables, err := d.query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%\_schema' ESCAPE '\'`, nil)
	if err != nil {
		return err
	}
	for _, row := range tables.values {
		if _, err := d.exec(fmt.Sprintf("DELETE FROM %s", row[0]), nil); err != nil {
			return err
		}
	}
	return nil
}

// mounted returns what p opens the disk with, in the place of the driver's own connector. A nil process is an observer.
func (d *disk) mounted(p *process) func(driver.Connector) driver.Connector {
	return func(c driver.Connector) driver.Connector { return diskConnector{c, d, p} }
}

// take waits until nobody else is at the disk.
func (d *disk) take(ctx context.Context, p *process) error {
	select {
	case <-d.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p != nil && p.isDead() {
		d.release()
		return errDead
	}
	return nil
}

func (d *disk) release() { d.free <- struct{}{} }

// drop rolls back what a process has left.
func (d *disk) drop(p *process) {
	if d.tx != nil && d.tx.conn.process == p {
		_ = d.tx.Rollback() // of a database in memory
	}
}

// A statement takes no time of its own, so there is nothing that a context could interrupt.

func (d *disk) exec(q string, args []driver.NamedValue) (driver.Result, error) {
	return d.conn.(driver.ExecerContext).ExecContext(background, q, args)
}

// query reads all rows at once, so that nothing of a process that dies stays open.
func (d *disk) query(q string, args []driver.NamedValue) (*diskRows, error) {
	rows, err := d.conn.(driver.QueryerContext).QueryContext(background, q, args)
	if err != nil {
		return nil, err
	}
	r := &diskRows{columns: rows.Columns()}
	for {
		row := make([]driver.Value, len(r.columns))
		if err = rows.Next(row); err != nil {
			break
		}
		r.values = append(r.values, row)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return r, errors.Join(err, rows.Close())
}

type diskConnector struct {
	driver.Connector
	disk    *disk
	process *process
}

func (c diskConnector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.process.step(ctx, "connect"); err != nil {
		return nil, err
	}
	if c.disk.conn == nil {
		conn, err := c.Connector.Connect(background)
		if err != nil {
			return nil, err
		}
		c.disk.conn = conn
	}
	return &diskConn{disk: c.disk, process: c.process}, nil
}

// diskConn is a process's way to the disk. Before every step the process may be made to wait, fail, or die.
type diskConn struct {
	disk    *disk
	process *process
	inTx    bool
}

func (c *diskConn) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("sim: nobody prepares statements")
}

func (c *diskConn) Begin() (driver.Tx, error) { return c.BeginTx(background, driver.TxOptions{}) }

func (c *diskConn) Close() error { return nil }

func (c *diskConn) Ping(ctx context.Context) error { return c.process.step(ctx, "ping") }

// ResetSession lets the pool keep the connection.
func (c *diskConn) ResetSession(context.Context) error { return nil }

func (c *diskConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.process.step(ctx, "begin"); err != nil {
		return nil, err
	}
	if err := c.disk.take(ctx, c.process); err != nil {
		return nil, err
	}
	tx, err := c.disk.conn.(driver.ConnBeginTx).BeginTx(background, opts)
	if err != nil {
		c.disk.release()
		return nil, err
	}
	c.inTx = true
	c.disk.tx = &diskTx{c, tx}
	return c.disk.tx, nil
}

func (c *diskConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (r driver.Result, err error) {
	err = c.use(ctx, q, func() (err error) {
		r, err = c.disk.exec(q, args)
		return err
	})
	return r, err
}

func (c *diskConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	var rows *diskRows
	err := c.use(ctx, q, func() (err error) {
		rows, err = c.disk.query(q, args)
		return err
	})
	return rows, err
}

// use runs a statement.
func (c *diskConn) use(ctx context.Context, what string, statement func() error) error {
	if err := c.process.step(ctx, what); err != nil {
		return err
	}
	if c.inTx {
		return statement()
	}
	if err := c.disk.take(ctx, c.process); err != nil {
		return err
	}
	defer c.disk.release()
	return statement()
}

// diskTx is a transaction of a process. A commit that fails may have taken place.
type diskTx struct {
	conn *diskConn
	tx   driver.Tx
}

func (t *diskTx) Commit() error {
	if err := t.conn.process.step(background, "commit"); err != nil {
		return errors.Join(err, t.Rollback())
	}
	err := t.tx.Commit()
	t.end()
	if err != nil {
		return err
	}
	return t.conn.process.step(background, "committed")
}

func (t *diskTx) Rollback() error {
	if t.conn.disk.tx != t {
		return nil // done when the process died
	}
	defer t.end()
	return t.tx.Rollback()
}

func (t *diskTx) end() {
	t.conn.inTx, t.conn.disk.tx = false, nil
	t.conn.disk.release()
}

// diskRows are rows that were read.
type diskRows struct {
	columns []string
	values  [][]driver.Value
}

func (r *diskRows) Columns() []string { return r.columns }
func (r *diskRows) Close() error      { return nil }

func (r *diskRows) Next(to []driver.Value) error {
	if len(r.values) == 0 {
		return io.EOF
	}
	copy(to, r.values[0])
	r.values = r.values[1:]
	return nil
}
