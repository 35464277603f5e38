package fuzz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
	took   time.Duration
	closes bool
}

func (a *answer) String() string { return fmt.Sprintf("%d %v %q", a.status, a.header, shorten(a.text)) }

// shorten keeps what people look at.
func shorten(s string) string {
	const most = 1500
	if len(s) > most {
		return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
	}
	return s
}

// patience is how long an answer may take. Services cut requests off long before.
const patience = 40 * time.Second

// connections are one to each service, kept as long as the service keeps it.
type connections struct {
	open map[string]*connection
}

type connection struct {
	net.Conn
	reader *bufio.Reader
}

func (c *connections) close() {
	for addr, conn := range c.open {
		_ = conn.Close() // whatever is left in it
		delete(c.open, addr)
	}
}

// send sends a request and returns the answers: one, or as many as came before the end if it is twisted.
func (c *connections) send(ctx context.Context, r *request) ([]*answer, error) {
	addr := r.operation.addr
	conn, again := c.open[addr], true
	delete(c.open, addr)
	if r.twisted && conn != nil { // one of its own
		_ = conn.Close()
		conn = nil
	}
	for {
		if conn == nil {
			dialed, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return nil, fmt.Errorf("fuzz: connect: %w", err)
			}
			conn, again = &connection{dialed, bufio.NewReader(dialed)}, false
		}
		answers, err := conn.exchange(r)
		if err != nil || r.twisted || answers[len(answers)-1].closes {
			_ = conn.Close() // it is not used again
		} else {
			c.open[addr] = conn
		}
		if len(answers) == 0 && again && err != nil && !errors.Is(err, context.DeadlineExceeded) { // it was closed meanwhile
			conn = nil
			continue
		}
		if r.twisted && len(answers) == 0 && !isTimeout(err) {
			return nil, nil // to end the connection is an answer, too
		}
		if len(answers) > 0 && r.twisted {
			err = nil
		}
		return answers, err
	}
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

func (c *connection) exchange(r *request) (answers []*answer, err error) {
	began := time.Now()
	if err := c.SetDeadline(began.Add(patience)); err != nil {
		return nil, err
	}
	text := r.bytes()
	for range r.more {
		text = append(text, r.bytes()...)
	}
	_, wrote := c.Write(text) // the answer may come, and the connection end, before all is written
	if r.halved {
		if half, ok := c.Conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}
	for {
		a, err := c.read(r.method)
		if err != nil {
			return answers, errors.Join(err, wrote)
		}
		if a.status < 200 && a.status != http.StatusSwitchingProtocols {
			continue
		}
		a.took = time.Since(began)
		answers = append(answers, a)
		if a.closes || !r.ends && len(answers) > r.more {
			return answers, nil
		}
	}
}

func (c *connection) read(method string) (*answer, error) {
	response, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &answer{status: response.StatusCode, header: response.Header, text: string(text), closes: response.Close}, nil
}
