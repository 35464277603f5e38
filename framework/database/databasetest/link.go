package databasetest

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Link is a way to a server that can be cut.
type Link struct {
	dir      string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	calls map[*call]bool // nil when the link is closed
	trap  *trap
}

// trap is what a connection is cut at.
type trap struct {
	text  []byte
	after bool
}

// call is one connection over a link.
type call struct {
	client, server net.Conn
	deaf           atomic.Bool // the server's next word is its last
}

func (c *call) cut() { _, _ = c.client.Close(), c.server.Close() }

// Link returns a new way to the server. It is closed when the test ends.
func (s *Server) Link(t testing.TB) *Link {
	t.Helper()
	dir, err := os.MkdirTemp("", "turnstile-pg-link-") //nolint:usetesting // that of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	const socket = ".s.PGSQL.5432"
	l := &Link{dir: dir, calls: map[*call]bool{}}
	if l.listener, err = net.Listen("unix", filepath.Join(dir, socket)); err != nil {
		t.Fatal(err)
	}
	l.running.Go(func() {
		for {
			client, err := l.listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", filepath.Join(s.dir, socket))
			if err != nil {
				_ = client.Close()
				continue
			}
			l.running.Go(func() { l.carry(&call{client: client, server: server}) })
		}
	})
	t.Cleanup(func() {
		_ = l.listener.Close()
		l.Cut()
		l.mu.Lock()
		l.calls = nil
		l.mu.Unlock()
		l.running.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

// URL returns the address of a database of the server, over the link.
func (l *Link) URL(database string) string { return (&Server{dir: l.dir}).URL(database) }

// Cut ends all connections without a word. New ones can be made.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.calls {
		c.cut()
	}
}

// CutBefore cuts the next connection over which a client sends the text. The
// server does not get it.
func (l *Link) CutBefore(text string) { l.set(&trap{text: []byte(text)}) }

// CutAfter cuts the next connection over which a client sends the text. The
// server gets it and answers; the client does not get the answer.
func (l *Link) CutAfter(text string) { l.set(&trap{text: []byte(text), after: true}) }

func (l *Link) set(t *trap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trap = t
}

// sprung reports whether what a client sends springs the trap, and which.
func (l *Link) sprung(b []byte) *trap {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.trap
	if t == nil || !bytes.Contains(b, t.text) {
		return nil
	}
	l.trap = nil
	return t
}

// carry moves bytes both ways until either side ends the connection.
func (l *Link) carry(c *call) {
	defer l.hangUp(c)
	l.mu.Lock()
	closed := l.calls == nil
	if !closed {
		l.calls[c] = true
	}
	l.mu.Unlock()
	if closed {
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		defer c.cut()
		pump(c.server, c.client, func([]byte) bool { return !c.deaf.Load() })
	})
	pump(c.client, c.server, func(b []byte) bool {
		t := l.sprung(b)
		if t != nil && t.after {
			c.deaf.Store(true)
		}
		return t == nil || t.after
	})
	c.cut()
	answers.Wait()
}

func (l *Link) hangUp(c *call) {
	c.cut()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, c)
}

// pump moves bytes as long as let lets them.
func pump(from, to net.Conn, let func([]byte) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !let(buf[:n]) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
