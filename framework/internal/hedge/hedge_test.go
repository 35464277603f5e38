package hedge

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// server answers the attempts to connect to it one after the other: nil is the answer that does not come.
type server struct {
	answers []func(context.Context) (net.Conn, error)
	calls   atomic.Int32
}

func (s *server) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	call := int(s.calls.Add(1)) - 1
	if call < len(s.answers) && s.answers[call] != nil {
		return s.answers[call](ctx)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func connect(to *net.Conn, after time.Duration) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		time.Sleep(after)
		ours, theirs := net.Pipe()
		*to = theirs
		return ours, nil
	}
}

func TestDial(t *testing.T) {
	refused := errors.New("refused")
	var peer net.Conn
	for name, test := range map[string]struct {
		answers []func(context.Context) (net.Conn, error)
		calls   int
		took    time.Duration
		err     error
	}{
		"at once":               {[]func(context.Context) (net.Conn, error){connect(&peer, 0)}, 1, 0, nil},
		"late, but first":       {[]func(context.Context) (net.Conn, error){connect(&peer, 300*time.Millisecond)}, 2, 300 * time.Millisecond, nil},
		"two packets are lost":  {[]func(context.Context) (net.Conn, error){nil, nil, connect(&peer, 0)}, 3, 500 * time.Millisecond, nil},
		"refused":               {[]func(context.Context) (net.Conn, error){func(context.Context) (net.Conn, error) { return nil, refused }}, 1, 0, refused},
		"nothing is there":      {nil, most, 10 * time.Second, context.DeadlineExceeded},
		"refused the last time": {[]func(context.Context) (net.Conn, error){nil, func(context.Context) (net.Conn, error) { return nil, refused }}, 2, pause, refused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				s := &server{answers: test.answers}
				begin := time.Now()
				conn, err := Dial(ctx, s, "tcp", "")
				took, calls := time.Since(begin), int(s.calls.Load())
				if took != test.took || calls != test.calls || !errors.Is(err, test.err) {
					t.Errorf("%v after %v and %d calls; want %v after %v and %d calls", err, took, calls, test.err, test.took, test.calls)
				}
				if err == nil {
					_ = conn.Close()
				}
			})
		})
	}
}

// TestOneTooMany: a connection that is made too late, though nobody can stop it, is closed before Dial returns.
func TestOneTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first, second net.Conn
		s := &server{answers: []func(context.Context) (net.Conn, error){connect(&first, time.Second), connect(&second, 0)}}
		conn, err := Dial(t.Context(), s, "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the other connection: %v, want %v", err, io.EOF)
		}
		go conn.Write([]byte("x"))
		if _, err := second.Read(make([]byte, 1)); err != nil {
			t.Errorf("the connection that was returned: %v", err)
		}
	})
}

// TestUnixSocket: what loses nothing is not asked twice.
func TestUnixSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var peer net.Conn
		s := &server{answers: []func(context.Context) (net.Conn, error){connect(&peer, time.Second)}}
		conn, err := Dial(t.Context(), s, "unix", "")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		if calls := s.calls.Load(); calls != 1 {
			t.Errorf("%d attempts, want 1", calls)
		}
	})
}
