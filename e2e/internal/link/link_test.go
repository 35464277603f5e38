package link_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/e2e/internal/link"
)

// echo is a server that sends every line back.
func echo(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					fmt.Fprint(c, line)
				}
			}()
		}
	}()
	return l.Addr().String()
}

func open(t *testing.T, server string) *link.Link {
	t.Helper()
	l, err := link.New("test", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func dial(t *testing.T, l *link.Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a line and waits for it to come back.
func ask(c net.Conn, patience time.Duration) error {
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := bufio.NewReader(c).ReadString('\n')
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	long  = time.Minute
	short = 50 * time.Millisecond
)

func TestSlow(t *testing.T) {
	t.Parallel()
	l := open(t, echo(t, "tcp", "127.0.0.1:0"))
	c := dial(t, l)
	must(t, ask(c, long))
	must(t, l.Slow(30*time.Millisecond, 0))
	began := time.Now()
	must(t, ask(c, long))
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("there and back took %v, want 30 ms each", took)
	}
	must(t, l.Heal())
	must(t, ask(c, long)) // the connection has survived
}

func TestCut(t *testing.T) {
	t.Parallel()
	l := open(t, echo(t, "tcp", "127.0.0.1:0"))
	c := dial(t, l)
	must(t, ask(c, long))
	l.Cut()
	if err := ask(c, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("over a connection that was cut: %v, want its end", err)
	}
	if other, err := net.Dial("tcp", l.Addr); err == nil {
		other.Close()
		t.Error("a new connection was accepted")
	}
	must(t, l.Heal())
	must(t, ask(dial(t, l), long))
}

func TestSwallow(t *testing.T) {
	t.Parallel()
	for _, sides := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		l := open(t, echo(t, "tcp", "127.0.0.1:0"))
		c := dial(t, l)
		must(t, ask(c, long))
		must(t, l.Swallow(sides[0], sides[1]))
		for _, c := range []net.Conn{c, dial(t, l)} {
			if err := ask(c, short); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v: %v, want no answer and no end", sides, err)
			}
		}
		must(t, l.Heal())
		must(t, ask(dial(t, l), long))
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "link-") //nolint:usetesting // t.TempDir is too long for a socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := open(t, echo(t, "unix", filepath.Join(dir, "socket")))
	c := dial(t, l)
	must(t, ask(c, long))
	l.Cut()
	must(t, l.Heal())
	must(t, ask(dial(t, l), long))
}

// TestManyTimes disturbs a link under traffic again and again.
func TestManyTimes(t *testing.T) {
	t.Parallel()
	l := open(t, echo(t, "tcp", "127.0.0.1:0"))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c, err := net.Dial("tcp", l.Addr); err == nil {
				_ = ask(c, short) // which may fail in any way
				c.Close()
			}
		}
	}()
	for i := range 60 {
		switch i % 3 {
		case 0:
			must(t, l.Slow(5*time.Millisecond, 5*time.Millisecond))
		case 1:
			must(t, l.Swallow(true, true))
		case 2:
			l.Cut()
		}
		must(t, l.Heal())
	}
	close(stop)
	<-done
	must(t, ask(dial(t, l), long))
}
