// Package link is connections between processes that can be disturbed: slow, cut, or open at one end only. The
// disturbances are toxiproxy's.
package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Link is a way to a server: who connects to its address is connected to the server. Close it at the end.
type Link struct {
	Name string // for people
	Addr string // host:port

	proxy  *toxiproxy.Proxy
	bridge *bridge // nil unless the server listens on a Unix socket
}

// New opens a link that listens on addr and leads to a server: host:port, or the path of a Unix socket.
func New(name, addr, server string) (*Link, error) {
	l := &Link{Name: name}
	if strings.HasPrefix(server, "/") {
		var err error
		if l.bridge, err = newBridge(server); err != nil {
			return nil, fmt.Errorf("open the link %s: %w", name, err)
		}
		server = l.bridge.Addr().String()
	}
	l.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), name, addr, server)
	if err := l.proxy.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the link %s: %w", name, err), l.bridge.Close())
	}
	l.Addr = l.proxy.Listen
	return l, nil
}

// Slow delays all that is sent, by delay more or less jitter.
func (l *Link) Slow(delay, jitter time.Duration) error {
	return errors.Join(
		l.add("upstream", "latency", map[string]int64{"latency": delay.Milliseconds(), "jitter": jitter.Milliseconds()}),
		l.add("downstream", "latency", map[string]int64{"latency": delay.Milliseconds(), "jitter": jitter.Milliseconds()}),
	)
}

// Cut ends all connections, and refuses new ones.
func (l *Link) Cut() { l.proxy.Stop() }

// Swallow keeps connections open, new ones too, and lets nothing through: not what clients send, not what the server
// sends, or neither.
func (l *Link) Swallow(clients, server bool) error {
	var err error
	if clients {
		err = l.add("upstream", "timeout", map[string]int64{"timeout": 0})
	}
	if server {
		err = errors.Join(err, l.add("downstream", "timeout", map[string]int64{"timeout": 0}))
	}
	return err
}

func (l *Link) add(direction, kind string, attributes map[string]int64) error {
	toxic, err := json.Marshal(map[string]any{"type": kind, "stream": direction, "attributes": attributes})
	if err != nil {
		return err
	}
	if _, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(string(toxic))); err != nil {
		return fmt.Errorf("disturb the link %s: %w", l.Name, err)
	}
	return nil
}

// healing is how long a toxic may take to go. One whose data nobody reads takes for ever.
const healing = 2 * time.Second

// Heal ends every disturbance. Connections over which something was swallowed end with it.
func (l *Link) Heal() error {
	healed := make(chan struct{})
	go func() {
		defer close(healed)
		l.proxy.Toxics.ResetToxics(context.Background())
	}()
	timer := time.NewTimer(healing)
	defer timer.Stop()
	select {
	case <-healed:
	case <-timer.C:
		l.proxy.Stop() // which ends the connections, and with them the wait
		<-healed
	}
	if err := l.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("heal the link %s: %w", l.Name, err)
	}
	return nil
}

// Close ends the link and all its connections.
func (l *Link) Close() error {
	l.proxy.Stop()
	return l.bridge.Close()
}

// bridge leads from a TCP port to a Unix socket: toxiproxy knows only the former.
type bridge struct {
	net.Listener
	socket  string
	running sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil when closed
}

func newBridge(socket string) (*bridge, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bridge{Listener: l, socket: socket, conns: map[net.Conn]bool{}}
	b.running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // closed
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				client.Close() // as if the server's port were closed
				continue
			}
			b.running.Go(func() { b.carry(client, server) })
			b.running.Go(func() { b.carry(server, client) })
		}
	})
	return b, nil
}

// carry moves what comes from one side to the other until either ends.
func (b *bridge) carry(from, to net.Conn) {
	if b.keep(from) {
		_, _ = io.Copy(to, from) // how it ends does not matter, for both ends end
	}
	from.Close()
	to.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, from)
}

// keep reports false if the bridge is closed.
func (b *bridge) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns != nil {
		b.conns[c] = true
	}
	return b.conns != nil
}

// Close ends the bridge and all its connections. A nil bridge is closed.
func (b *bridge) Close() error {
	if b == nil {
		return nil
	}
	err := b.Listener.Close()
	b.mu.Lock()
	for c := range b.conns {
		c.Close()
	}
	b.conns = nil
	b.mu.Unlock()
	b.running.Wait()
	return err
}
