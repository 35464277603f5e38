package server

import (
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/broker"
	"github.com/turnstile-go/turnstile/framework/kube"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
)

// Config is what the service takes from its environment.
type Config struct {
	Database database.Config
	Events   event.Config
	Broker   broker.Config
	HTTP     web.Config
	Session  session.Config
	Kube     kube.Config

	// Expiration is how long an order holds its ticket without being paid.
	Expiration time.Duration `env:"ORDER_EXPIRATION" envDefault:"15m" doc:"how long an order holds its ticket without being paid"`
}
