package server

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"sync"

	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Limits are how often it may be tried to sign in or up.
type Limits struct {
	Address      uint `env:"RATE_LIMIT_ADDRESS" envDefault:"10" doc:"how often a minute it may be tried to sign in or up with one e-mail address; 0 for no limit"`
	AddressBurst uint `env:"RATE_LIMIT_ADDRESS_BURST" envDefault:"20" doc:"how often at once"`
	Client       uint `env:"RATE_LIMIT_CLIENT" envDefault:"600" doc:"how often a minute one client may try to sign in or up: an IPv4 address, or an IPv6 /64; 0 for no limit"`
	ClientBurst  uint `env:"RATE_LIMIT_CLIENT_BURST" envDefault:"300" doc:"how often at once"`
}

// Attempts limits how often it is tried to sign in or up. It is a part of the
// service, whose limits may change while it runs. Every process counts for
// itself.
type Attempts struct {
	mu        sync.Mutex
	limits    Limits
	clients   *web.Limiter[netip.Prefix]
	addresses *web.Limiter[string]
}

// NewAttempts returns an Attempts with the given limits.
func NewAttempts(l Limits) *Attempts {
	a := &Attempts{limits: l}
	a.renew()
	return a
}

// renew has all begin anew, with the limits that there are now.
func (a *Attempts) renew() {
	const minute = 60
	l := a.limits
	a.clients = web.NewLimiter[netip.Prefix](web.Rate(float64(l.Client)/minute), max(1, l.ClientBurst))
	a.addresses = web.NewLimiter[string](web.Rate(float64(l.Address)/minute), max(1, l.AddressBurst))
}

// admit takes one more try into account, or refuses it. A client that makes too
// many does not use up those of an address.
func (a *Attempts) admit(ctx context.Context, email string) error {
	a.mu.Lock()
	clients, addresses := a.clients, a.addresses
	a.mu.Unlock()
	if wait := clients.Admit(web.ClientFrom(ctx).Network()); wait > 0 {
		return web.TooMany("There are too many attempts from here, please slow down", wait)
	}
	if wait := addresses.Admit(user.Fold(email)); wait > 0 {
		return web.TooMany("There are too many attempts with this address, please wait a little", wait)
	}
	return nil
}

// Run waits for the end: there is nothing to be done meanwhile.
func (a *Attempts) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Adjust says that the limits may change while the service runs.
func (a *Attempts) Adjust() map[string]func(value string) error {
	set := func(limit *uint) func(string) error {
		return func(value string) error {
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil {
				return errors.New("want a whole number")
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			*limit = uint(n)
			a.renew()
			return nil
		}
	}
	return map[string]func(value string) error{
		"RATE_LIMIT_ADDRESS": set(&a.limits.Address), "RATE_LIMIT_ADDRESS_BURST": set(&a.limits.AddressBurst),
		"RATE_LIMIT_CLIENT": set(&a.limits.Client), "RATE_LIMIT_CLIENT_BURST": set(&a.limits.ClientBurst),
	}
}
