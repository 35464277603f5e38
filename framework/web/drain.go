package web

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Drain has every answer from now on close its connection, so that clients that keep theirs open, such as proxies, make
// new ones, and those to somebody else. Requests are served all the same.
func (s *Server) Drain(context.Context) error {
	s.draining.Store(true)
	return nil
}

// LastRequest returns when the last request came since Drain was called, the zero time if none has.
func (s *Server) LastRequest() time.Time {
	if at := s.lastRequest.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// visit notes that a request has come.
func (s *Server) visit() {
	if s.draining.Load() {
		now := time.Now()
		s.lastRequest.Store(&now)
	}
}

// lull is how long a connection must have been silent before it is closed at the end.
const lull = 500 * time.Millisecond

// connections are those of a server. To end without cutting off a request takes more than [http.Server.Shutdown], which
// closes what is idle even if a request has come and was not read yet.
type connections struct {
	changed chan struct{} // has room for one signal

	mu  sync.Mutex
	all map[net.Conn]*connection
}

type connection struct {
	silent time.Time // since when no request is under way; zero if one is
	shut   bool      // nothing is read any more but what has come already
}

func newConnections() *connections {
	return &connections{changed: make(chan struct{}, 1), all: map[net.Conn]*connection{}}
}

// note is an [http.Server]'s ConnState.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.all[conn] = &connection{silent: time.Now()}
	case http.StateActive:
		c.all[conn].silent = time.Time{}
	case http.StateIdle:
		c.all[conn].silent = time.Now()
	case http.StateClosed, http.StateHijacked:
		delete(c.all, conn)
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

// end returns when all connections have ended, or ctx has. Those that are silent are closed; the others must be closed by
// their answers. What remains is that a client can send a request, over a connection that was silent, in the moment before
// it learns that this was closed.
func (c *connections) end(ctx context.Context) {
	for {
		left, next := c.shut()
		if left == 0 {
			return
		}
		select {
		case <-c.changed:
		case <-time.After(next):
		case <-ctx.Done():
			return
		}
	}
}

// shut shuts what is silent. It returns how many connections are left, and when to look again.
func (c *connections) shut() (left int, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next = lull
	for conn, state := range c.all {
		if state.shut || state.silent.IsZero() {
			continue
		}
		if more := lull - time.Since(state.silent); more > 0 {
			next = min(next, more)
			continue
		}
		state.shut = true
		if r, ok := conn.(interface{ CloseRead() error }); ok {
			_ = r.CloseRead() // the server reads what has come, or that there is no more, and closes it
		} else {
			_ = conn.Close()
		}
	}
	return len(c.all), next
}
