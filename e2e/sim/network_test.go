package sim

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
)

// network connects processes and users by host names, in memory.
type network struct {
	mu    sync.Mutex
	hosts map[string]*listener
}

// listener is a process's place in the network.
type listener struct {
	network *network
	host    string
	arrive  chan net.Conn
	closed  chan struct{}
	close   func()

	mu    sync.Mutex
	conns []net.Conn // both ends of those accepted
}

// listen takes the host's place, whoever had it before.
func (n *network) listen(host string) *listener {
	l := &listener{network: n, host: host, arrive: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() {
		close(l.closed)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.hosts[host] == l {
			delete(n.hosts, host)
		}
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = l
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.arrive:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.close()
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.host) }

// sever breaks every connection, as the death of the listening process does.
func (l *listener) sever() {
	l.close()
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // of a pipe
	}
}

type address string

func (address) Network() string  { return "sim" }
func (a address) String() string { return string(a) + ":80" }

func (n *network) dial(ctx context.Context, host string) (net.Conn, error) {
	n.mu.Lock()
	l := n.hosts[host]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("sim: dial %s: connection refused", host)
	}
	near, far := net.Pipe()
	select {
	case l.arrive <- far:
	case <-l.closed:
		return nil, fmt.Errorf("sim: dial %s: connection reset", host)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	l.conns = append(l.conns, far)
	l.mu.Unlock()
	return &dialed{near, l, far}, nil
}

// dialed is the near end of a connection.
type dialed struct {
	net.Conn
	to  *listener
	far net.Conn
}

func (c *dialed) Close() error {
	c.to.mu.Lock()
	c.to.conns = slices.DeleteFunc(c.to.conns, func(o net.Conn) bool { return o == c.far })
	c.to.mu.Unlock()
	return c.Conn.Close()
}

// RoundTrip sends one request over a connection of its own. It implements http.RoundTripper.
func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := n.dial(r.Context(), r.URL.Hostname())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(r.Context(), func() { _ = c.Close() })()
	var text bytes.Buffer
	r.Close = true
	if err := r.Write(&text); err != nil {
		return nil, err
	}
	if _, err := c.Write(text.Bytes()); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}
