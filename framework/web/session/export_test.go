package session

import (
	"log/slog"
	"net/http"
	"time"
)

const (
	Retry  = retry
	MaxAge = maxAge
)

// NewTestVerifier is NewVerifier with a clock for the age of its keys.
func NewTestVerifier(cfg Config, now func() time.Time) *Verifier {
	return NewLocalVerifier(cfg, nil, newRemoteKeys(cfg.JWKSURL, nil, slog.New(slog.DiscardHandler), now))
}

// NewHangingVerifier returns a Verifier whose requests for keys are never answered.
func NewHangingVerifier() *Verifier {
	keys := newRemoteKeys("http://auth.invalid", hang{}, slog.New(slog.DiscardHandler), time.Now)
	return NewLocalVerifier(Config{}, nil, keys)
}

type hang struct{}

func (hang) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
