package servicetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bare is a part that serves HTTP with nothing but its handler, on a port of its
// own, and is over at once.
type Bare struct {
	Handler http.Handler

	listener net.Listener
}

// Start opens the listener.
func (s *Bare) Start(ctx context.Context) (err error) {
	s.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	return err
}

// Addr returns the address that the part listens on, once it is started.
func (s *Bare) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves until ctx is done.
func (s *Bare) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.Handler, ReadHeaderTimeout: patience}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

const (
	roundRequests = 400 // that each service is sent in a round
	roundClients  = 8   // at once, each on a connection of its own
)

// Request is one that [Compare] sends: of a user, with a JSON body unless that
// is empty, to be answered with the status.
type Request struct {
	User, Method, Path, Body string
	Status                   int
}

// Compare measures how many requests a second a service answers, beside those
// that a bare one answers that does the same work without the framework. They
// take turns, b.N rounds long: what else the machine does concerns both. Prepare,
// which may be nil, is called before a service's part of a round, with n, the
// number of requests; next returns the i-th of them.
//
// It reports the medians of the rounds: requests a second of both, the ratio
// (service to bare), and the time that 99 of 100 requests take.
func Compare(b *testing.B, s, bare *Service, prepare func(of *Service, n int), next func(of *Service, i int) Request) {
	b.Helper()
	type result struct{ rate, p99 float64 }
	var of [2][]result
	var ratios []float64
	for round := 0; b.Loop(); round++ {
		for turn := range 2 {
			which := (round + turn) % 2
			subject := []*Service{s, bare}[which]
			if prepare != nil {
				prepare(subject, roundRequests)
			}
			rate, p99, err := subject.round(b.Context(), next)
			if err != nil {
				b.Fatal(err)
			}
			of[which] = append(of[which], result{rate, p99})
		}
		ratios = append(ratios, of[0][round].rate/of[1][round].rate)
	}
	rate := func(r result) float64 { return r.rate }
	p99 := func(r result) float64 { return r.p99 }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(medianOf(of[0], rate), "req/s")
	b.ReportMetric(medianOf(of[1], rate), "bare-req/s")
	b.ReportMetric(medianOf(ratios, func(r float64) float64 { return r }), "ratio")
	b.ReportMetric(medianOf(of[0], p99), "p99-ms")
	b.ReportMetric(medianOf(of[1], p99), "bare-p99-ms")
}

func medianOf[T any](list []T, of func(T) float64) float64 {
	var values []float64
	for _, v := range list {
		values = append(values, of(v))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// round sends the requests of a round to the first process. The clients do as
// little as they can, since they take their time from the service.
func (s *Service) round(ctx context.Context, next func(of *Service, i int) Request) (rate, p99 float64, err error) {
	each := roundRequests / roundClients
	took := make([]time.Duration, roundRequests)
	texts := make([][]byte, roundRequests)
	statuses := make([]int, roundRequests)
	for i := range texts {
		r := next(s, i)
		statuses[i] = r.Status
		texts[i] = fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\n", r.Method, r.Path)
		if r.User != "" {
			texts[i] = fmt.Appendf(texts[i], "Authorization: Bearer %s\r\n", s.token(r.User))
		}
		if r.Body != "" {
			texts[i] = fmt.Appendf(texts[i], "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.Body))
		}
		texts[i] = fmt.Appendf(texts[i], "\r\n%s", r.Body)
	}
	var clients [roundClients]net.Conn
	for c := range clients {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(s.URLs[0], "http://"))
		if err != nil {
			return 0, 0, fmt.Errorf("servicetest: %w", err)
		}
		defer conn.Close()
		clients[c] = conn
	}
	var group errgroup.Group
	began := time.Now()
	for c, conn := range clients {
		group.Go(func() error {
			answers := bufio.NewReader(conn)
			for i := c * each; i < (c+1)*each; i++ {
				sent := time.Now()
				if _, err := conn.Write(texts[i]); err != nil {
					return fmt.Errorf("servicetest: %w", err)
				}
				res, err := http.ReadResponse(answers, nil)
				if err != nil {
					return fmt.Errorf("servicetest: %w", err)
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil {
					return fmt.Errorf("servicetest: %w", err)
				}
				took[i] = time.Since(sent)
				if res.StatusCode != statuses[i] {
					line, _, _ := strings.Cut(string(texts[i]), "\r\n")
					return fmt.Errorf("servicetest: %s: %d %s, want %d", line, res.StatusCode, body, statuses[i])
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	total := time.Since(began)
	slices.Sort(took)
	return roundRequests / total.Seconds(), took[len(took)*99/100].Seconds() * 1000, nil
}

// token returns a session of the user, the same at every call.
func (s *Service) token(user string) string {
	if s.tokens[user] == "" {
		if s.tokens == nil {
			s.tokens = map[string]string{}
		}
		s.tokens[user] = s.issuer.Token(user)
	}
	return s.tokens[user]
}
