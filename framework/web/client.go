package web

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Client is who sent a request, as far as the network and the trusted proxies know.
type Client struct {
	Addr netip.Addr // the zero Addr when unknown
	TLS  bool       // the client speaks TLS, to us or to a trusted proxy
}

// ClientFrom returns the client of the request that ctx belongs to, the zero Client if it belongs to none.
func ClientFrom(ctx context.Context) Client {
	if x := exchangeOf(ctx); x != nil {
		return x.client
	}
	return Client{}
}

func (s *Server) client(r *http.Request) Client {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return Client{TLS: r.TLS != nil}
	}
	c := Client{Addr: addr.Unmap().WithZone(""), TLS: r.TLS != nil}
	if !s.trusted(c.Addr) {
		return c
	}
	if first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ","); first != "" {
		c.TLS = strings.EqualFold(strings.TrimSpace(first), "https")
	}
	// Every proxy appends whom it heard from: the last one that is not a proxy of ours is the client.
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		c.Addr = hop.Unmap().WithZone("")
		if !s.trusted(c.Addr) {
			break
		}
	}
	return c
}

func (s *Server) trusted(a netip.Addr) bool {
	for _, p := range s.cfg.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
