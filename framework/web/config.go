package web

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Config says where and within which bounds a Server serves. Its zero value serves on :8080 with the defaults below and
// trusts no proxy.
type Config struct {
	Addr              string         `env:"HTTP_ADDR" envDefault:":8080" doc:"address the HTTP API listens on"`
	BodyLimit         int64          `env:"HTTP_BODY_LIMIT" envDefault:"1048576" doc:"largest request body in bytes"`
	ReadHeaderTimeout time.Duration  `env:"HTTP_READ_HEADER_TIMEOUT" envDefault:"5s" doc:"longest time a client may take to send its headers"`
	ReadTimeout       time.Duration  `env:"HTTP_READ_TIMEOUT" envDefault:"15s" doc:"longest time a client may take to send a whole request"`
	RequestTimeout    time.Duration  `env:"HTTP_REQUEST_TIMEOUT" envDefault:"15s" doc:"longest time a request is worked on before it is answered with 503"`
	WriteTimeout      time.Duration  `env:"HTTP_WRITE_TIMEOUT" envDefault:"30s" doc:"longest time from the end of the headers to the end of the answer"`
	IdleTimeout       time.Duration  `env:"HTTP_IDLE_TIMEOUT" envDefault:"2m" doc:"how long an idle connection is kept"`
	DrainTimeout      time.Duration  `env:"HTTP_DRAIN_TIMEOUT" envDefault:"20s" doc:"how long requests in flight may take to finish at shutdown"`
	TrustedProxies    []netip.Prefix `env:"HTTP_TRUSTED_PROXIES" envDefault:"127.0.0.0/8,::1/128" doc:"networks of the proxies, whose X-Forwarded-For and X-Forwarded-Proto are believed"`
	RateLimit         Rate           `env:"HTTP_RATE_LIMIT" envDefault:"0" doc:"requests a second that one client may make: an IPv4 address, or an IPv6 /64; 0 for no limit"`
	RateBurst         uint           `env:"HTTP_RATE_BURST" envDefault:"0" doc:"requests that it may make at once; 0 for twice the limit"`
	AccountRateLimit  Rate           `env:"HTTP_ACCOUNT_RATE_LIMIT" envDefault:"0" doc:"requests a second that one account may make, from wherever; 0 for no limit"`
	AccountRateBurst  uint           `env:"HTTP_ACCOUNT_RATE_BURST" envDefault:"0" doc:"requests that it may make at once; 0 for twice the limit"`

	// Listen, if set, opens the listener on Addr, for servers without a network of the machine's. Nil listens on TCP.
	Listen func(ctx context.Context, network, addr string) (net.Listener, error) `env:"-" json:"-"`
}

func (c Config) withDefaults() Config {
	if c.Addr == "" {
		c.Addr = ":8080"
	}
	if c.BodyLimit <= 0 {
		c.BodyLimit = 1 << 20
	}
	if c.Listen == nil {
		c.Listen = new(net.ListenConfig).Listen
	}
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&c.ReadHeaderTimeout, 5 * time.Second},
		{&c.ReadTimeout, 15 * time.Second},
		{&c.RequestTimeout, 15 * time.Second},
		{&c.WriteTimeout, 30 * time.Second},
		{&c.IdleTimeout, 2 * time.Minute},
		{&c.DrainTimeout, 20 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.unset
		}
	}
	return c
}
