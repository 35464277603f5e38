package server

import (
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/broker"
	"github.com/turnstile-go/turnstile/framework/kube"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Config is what the service takes from its environment.
type Config struct {
	Database  database.Config
	Events    event.Config
	Broker    broker.Config
	HTTP      web.Config
	Session   session.Config
	Kube      kube.Config
	Passwords user.Cost
	Limits    Limits

	// KeyRotation is how often another key begins to sign sessions.
	KeyRotation time.Duration `env:"SESSION_KEY_ROTATION" envDefault:"720h" doc:"how often another key begins to sign sessions, at least 1h; 0 for only when operators say so"`
}
