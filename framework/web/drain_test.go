package web_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/goleak"

	"github.com/turnstile-go/turnstile/framework/web"
)

// balancer passes connections on to one address, as what stands before the pods
// of a service does. Those that are made stay as they are.
type balancer struct {
	net.Listener
	to      atomic.Pointer[string] // for new connections
	running sync.WaitGroup
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	b := &balancer{}
	var err error
	if b.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	b.running.Go(func() {
		for {
			client, err := b.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", *b.to.Load())
				if err != nil {
					t.Errorf("a new connection is sent to a server that has gone: %v", err)
					return
				}
				defer server.Close()
				var back sync.WaitGroup
				back.Go(func() {
					_, _ = io.Copy(client, server)
					_ = client.(*net.TCPConn).CloseWrite()
				})
				_, _ = io.Copy(server, client)
				_ = server.(*net.TCPConn).CloseWrite()
				back.Wait()
			})
		}
	})
	return b
}

// serveHats starts a server that takes POSTs.
func serveHats(t *testing.T) (s *web.Server, stop func()) {
	t.Helper()
	s = web.NewServer("hats", web.Config{Addr: "127.0.0.1:0"}, nil, nil, nil)
	huma.Register(s.API(), huma.Operation{OperationID: "create-hat", Method: "POST", Path: "/api/hats", DefaultStatus: 201},
		func(_ context.Context, in *struct{ Body newHat }) (*hatOutput, error) {
			time.Sleep(rand.N(2 * time.Millisecond)) // it has something to do
			return &hatOutput{hat{Title: in.Body.Title, Size: in.Body.Size}}, nil
		})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// One server after another drains and is stopped behind a balancer that sends it
// no new connections any more. No client has a request fail, though each keeps
// its connection for as long as it may, and no POST is tried twice.
func TestNoRequestFailsInADrain(t *testing.T) {
	for name, pause := range map[string]time.Duration{"busy clients": 0, "clients that pause": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			b := newBalancer(t)
			current, stop := serveHats(t)
			addr := current.Addr()
			b.to.Store(&addr)

			var clients sync.WaitGroup
			var sent, failed, connections atomic.Int64
			done := make(chan struct{})
			for range 30 {
				clients.Go(func() {
					transport := &http.Transport{
						DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
							connections.Add(1)
							return new(net.Dialer).DialContext(ctx, network, addr)
						},
						IdleConnTimeout: 250 * time.Millisecond, // as of proxies, shorter than the server's, also on a slow machine
					}
					defer transport.CloseIdleConnections()
					client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
					for {
						select {
						case <-done:
							return
						default:
						}
						if err := postHat(client, "http://"+b.Addr().String()+"/api/hats"); err != nil {
							failed.Add(1)
							t.Error(err)
						}
						sent.Add(1)
						if pause > 0 {
							time.Sleep(rand.N(pause))
						}
					}
				})
			}
			const turns = 4
			for range turns {
				time.Sleep(100 * time.Millisecond)
				next, stopNext := serveHats(t)
				addr := next.Addr()
				b.to.Store(&addr)
				if err := current.Drain(t.Context()); err != nil {
					t.Error(err)
				}
				time.Sleep(300 * time.Millisecond)
				stop()
				current, stop = next, stopNext
			}
			close(done)
			clients.Wait()
			stop()
			b.Close()
			b.running.Wait()
			t.Logf("%d requests over %d connections, %d failed", sent.Load(), connections.Load(), failed.Load())
			if n := connections.Load(); n > 2*30*(turns+1) { // a client may make one in vain
				t.Errorf("30 clients made %d connections to %d servers one after another: answers closed them outside of a drain", n, turns+1)
			}
		})
	}
}

func postHat(client *http.Client, url string) error {
	res, err := client.Post(url, "application/json", strings.NewReader(`{"title": "bowler", "size": 7}`))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s: %s", res.Status, body)
	}
	return nil
}

// A request that is under way when the drain begins has its connection closed,
// too; and connections on which nothing is said do not hold up the end.
func TestConnectionsEndWithTheirAnswers(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := web.NewServer("slow", web.Config{Addr: "127.0.0.1:0"}, nil, nil, nil)
	entered, release := make(chan struct{}, 1), make(chan struct{}, 1)
	huma.Register(s.API(), huma.Operation{OperationID: "slow", Method: "GET", Path: "/api/slow"},
		func(context.Context, *struct{}) (*struct{}, error) {
			entered <- struct{}{}
			<-release
			return nil, nil
		})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{}}
	get := func() (closed bool) {
		res, err := client.Get("http://" + s.Addr() + "/api/slow")
		if err != nil {
			t.Error(err)
			return false
		}
		res.Body.Close()
		return res.Close
	}
	release <- struct{}{}
	if get() {
		t.Error("an answer closes its connection, and nobody drains")
	}
	<-entered
	answered := make(chan bool, 1)
	go func() { answered <- get() }()
	<-entered
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	release <- struct{}{}
	if !<-answered {
		t.Error("the request under way leaves its connection open")
	}
	mute, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	release <- struct{}{}
	if !get() {
		t.Error("a request in the drain leaves its connection open")
	}
	start := time.Now()
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a connection without a request held up the end for %v", took)
	}
}

// lateListener hands out connections on which a request has come that the server does not see before it shuts them: from
// the second one on.
type lateListener struct{ net.Listener }

func (l lateListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lateConn{TCPConn: conn.(*net.TCPConn), shut: make(chan struct{})}, nil
}

type lateConn struct {
	*net.TCPConn
	requests int // that have begun to arrive
	shut     chan struct{}
}

func (c *lateConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if bytes.Contains(b[:n], []byte("OST ")) { // the server may look for the first byte before it is idle
		if c.requests++; c.requests > 1 {
			<-c.shut
		}
	}
	return n, err
}

func (c *lateConn) CloseRead() error {
	defer close(c.shut)
	return c.TCPConn.CloseRead()
}

// A request that comes in the very moment in which its connection is closed, since nothing was said on it, is served like
// any other, or is to be sent again if not all of it came.
func TestRequestInTheLastMoment(t *testing.T) {
	const header = "POST /api/hats HTTP/1.1\r\nHost: hats\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
	for name, test := range map[string]struct {
		last string
		want int
	}{
		"whole":           {header + "{}", http.StatusOK},
		"without the end": {header, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			listen := func(ctx context.Context, network, addr string) (net.Listener, error) {
				l, err := new(net.ListenConfig).Listen(ctx, network, addr)
				return lateListener{l}, err
			}
			s := web.NewServer("hats", web.Config{Addr: "127.0.0.1:0", Listen: listen}, nil, nil, nil)
			huma.Register(s.API(), huma.Operation{OperationID: "create-hat", Method: "POST", Path: "/api/hats", DefaultStatus: 200},
				func(ctx context.Context, _ *struct{ Body struct{} }) (*struct{}, error) {
					select {
					case <-ctx.Done():
						return nil, ctx.Err()
					case <-time.After(50 * time.Millisecond): // long enough to notice that the connection is shut
						return nil, nil
					}
				})
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			ran := make(chan error, 1)
			go func() { ran <- s.Run(ctx) }()
			conn, err := net.Dial("tcp", s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			answers := bufio.NewReader(conn)
			for i, request := range []string{header + "{}", test.last} {
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
				want := http.StatusOK
				if i == 1 {
					want = test.want
					stop()
				}
				res, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if res.StatusCode != want || err != nil {
					t.Errorf("request %d: %s %s (%v), want %d", i, res.Status, body, err, want)
				}
			}
			if err := <-ran; err != nil {
				t.Error(err)
			}
		})
	}
}
