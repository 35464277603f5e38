package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/time/rate"
)

// Rate is how many requests a second a client may make. Zero is no limit.
type Rate float64

// UnmarshalText accepts a number that is not negative, such as 20 or 0.5.
func (r *Rate) UnmarshalText(text []byte) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(f >= 0 && f <= math.MaxInt32) {
		return fmt.Errorf("want the requests a second of one client, such as 20 or 0.5, or 0 for no limit")
	}
	*r = Rate(f)
	return nil
}

const (
	maxClients    = 20_000      // that have a bucket of their own
	sharedBuckets = 256         // for those that come when there are so many
	forgetEvery   = time.Second // at most, those whose bucket is full
)

// limiter limits how many requests each client may make. Its memory is bounded: a client whose bucket is full is
// forgotten, which makes no difference to it. When too many clients are known, as in a flood, new ones share buckets;
// those that are known keep theirs.
type limiter struct {
	refused metric.Int64Counter
	seed    maphash.Seed

	mu       sync.Mutex
	rate     Rate
	burst    uint // 0 for the default
	clients  map[netip.Prefix]*rate.Limiter
	shared   [sharedBuckets]*rate.Limiter
	forgotAt time.Time
}

func newLimiter(r Rate, burst uint, meter metric.MeterProvider) *limiter {
	refused, err := meter.Meter(scope).Int64Counter("turnstile.http.limited", metric.WithUnit("{request}"),
		metric.WithDescription("Requests refused because their client makes too many."))
	if err != nil {
		panic(err) // the name is fixed
	}
	return &limiter{refused: refused, seed: maphash.MakeSeed(), rate: r, burst: burst, clients: map[netip.Prefix]*rate.Limiter{}}
}

const scope = "github.com/turnstile-go/turnstile/framework/web"

// admit takes a request of the client into account. If there are too many it returns after what time there may be one.
func (l *limiter) admit(client netip.Addr, now time.Time) (wait time.Duration) {
	bucket := l.bucket(client, now)
	if bucket == nil || bucket.AllowN(now, 1) {
		return 0
	}
	missing := 1 - bucket.TokensAt(now)
	return max(time.Nanosecond, time.Duration(missing/float64(bucket.Limit())*float64(time.Second)))
}

// bucket returns the client's bucket, nil if there is no limit.
func (l *limiter) bucket(client netip.Addr, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return nil
	}
	network := networkOf(client)
	if b := l.clients[network]; b != nil {
		return b
	}
	if len(l.clients) >= maxClients && now.Sub(l.forgotAt) >= forgetEvery {
		l.forgotAt = now
		for n, b := range l.clients {
			if b.TokensAt(now) >= float64(b.Burst()) {
				delete(l.clients, n)
			}
		}
	}
	b := l.newBucket()
	if len(l.clients) < maxClients {
		l.clients[network] = b
		return b
	}
	i := maphash.Comparable(l.seed, network) % sharedBuckets
	l.shared[i] = cmp.Or(l.shared[i], b)
	return l.shared[i]
}

// newBucket returns a full one. The lock is held.
func (l *limiter) newBucket() *rate.Limiter {
	burst := l.burst
	if burst == 0 {
		burst = uint(max(1, math.Ceil(2*float64(l.rate))))
	}
	return rate.NewLimiter(rate.Limit(l.rate), int(min(burst, math.MaxInt32)))
}

// adjust changes the limits. All clients begin anew.
func (l *limiter) adjust(change func(l *limiter)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	clear(l.clients)
	l.shared = [sharedBuckets]*rate.Limiter{}
}

// networkOf is what counts as one client: an address, or the /64 that a client has with IPv6.
func networkOf(client netip.Addr) netip.Prefix {
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, _ := client.Prefix(bits) // of no address it is the zero Prefix
	return network
}

func slowDown(wait time.Duration) *Problem {
	return tooMany("There are too many requests from this address, please slow down", wait)
}

// limit refuses requests of clients that make too many, before anything is done for them.
func (s *Server) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := s.limits.admit(ClientFrom(r.Context()).Addr, time.Now()); wait > 0 {
			s.limits.refused.Add(context.WithoutCancel(r.Context()), 1)
			WriteProblem(w, r, slowDown(wait))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Adjust says that the limits on clients' requests may change while the server runs.
func (s *Server) Adjust() map[string]func(value string) error {
	return map[string]func(value string) error{
		"HTTP_RATE_LIMIT": func(value string) error {
			var r Rate
			if err := r.UnmarshalText([]byte(cmp.Or(value, "0"))); err != nil {
				return err
			}
			s.limits.adjust(func(l *limiter) { l.rate = r })
			return nil
		},
		"HTTP_RATE_BURST": func(value string) error {
			burst, err := strconv.ParseUint(cmp.Or(value, "0"), 10, 31)
			if err != nil {
				return errors.New("want how many requests a client may make at once, or 0 for twice the limit")
			}
			s.limits.adjust(func(l *limiter) { l.burst = uint(burst) })
			return nil
		},
	}
}
