package web

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// limits are how many requests each client and each account may make.
type limits struct {
	clients  *Limiter[netip.Prefix]
	accounts *Limiter[string]
	refused  metric.Int64Counter
}

func newLimits(cfg Config, meter metric.MeterProvider) *limits {
	refused, err := meter.Meter(scope).Int64Counter("turnstile.http.limited", metric.WithUnit("{request}"),
		metric.WithDescription("Requests refused because their client or account makes too many."))
	if err != nil {
		panic(err) // the name is fixed
	}
	return &limits{
		clients:  NewLimiter[netip.Prefix](cfg.RateLimit, cfg.RateBurst),
		accounts: NewLimiter[string](cfg.AccountRateLimit, cfg.AccountRateBurst),
		refused:  refused,
	}
}

const scope = "github.com/turnstile-go/turnstile/framework/web"

// Network is what counts as one client where requests are limited: its address, or the /64 that a client has with IPv6. It
// is the zero Prefix if the address is unknown.
func (c Client) Network() netip.Prefix {
	bits := c.Addr.BitLen()
	if c.Addr.Is6() {
		bits = 64
	}
	network, _ := c.Addr.Prefix(bits) // of no address it is the zero Prefix
	return network
}

// limitClients refuses requests of clients that make too many, before anything is done for them.
func (s *Server) limitClients(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := s.limits.clients.Admit(ClientFrom(r.Context()).Network()); wait > 0 {
			s.limits.refuse(w, r, "client", slowDown(wait))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// limitAccounts refuses requests of callers who make too many, from wherever they come.
func (s *Server) limitAccounts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if caller := s.auth.Caller(r.Context()); caller != "" {
			if wait := s.limits.accounts.Admit(caller); wait > 0 {
				s.limits.refuse(w, r, "account", TooMany("There are too many requests of this account, please slow down", wait))
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (l *limits) refuse(w http.ResponseWriter, r *http.Request, limit string, p *Problem) {
	l.refused.Add(context.WithoutCancel(r.Context()), 1, metric.WithAttributes(attribute.String("limit", limit)))
	WriteProblem(w, r, p)
}

func slowDown(wait time.Duration) *Problem {
	return TooMany("There are too many requests from this address, please slow down", wait)
}

// Adjust says that the limits on requests may change while the server runs.
func (s *Server) Adjust() map[string]func(value string) error {
	return map[string]func(value string) error{
		"HTTP_RATE_LIMIT":         adjustRate(s.limits.clients),
		"HTTP_RATE_BURST":         adjustBurst(s.limits.clients),
		"HTTP_ACCOUNT_RATE_LIMIT": adjustRate(s.limits.accounts),
		"HTTP_ACCOUNT_RATE_BURST": adjustBurst(s.limits.accounts),
	}
}

func adjustRate[K comparable](l *Limiter[K]) func(value string) error {
	return func(value string) error {
		var r Rate
		if err := r.UnmarshalText([]byte(value)); err != nil {
			return err
		}
		l.adjust(func(l *Limiter[K]) { l.rate = r })
		return nil
	}
}

func adjustBurst[K comparable](l *Limiter[K]) func(value string) error {
	return func(value string) error {
		burst, err := strconv.ParseUint(value, 10, 31)
		if err != nil {
			return errors.New("want how many requests may be made at once, or 0 for twice the limit")
		}
		l.adjust(func(l *Limiter[K]) { l.burst = uint(burst) })
		return nil
	}
}
