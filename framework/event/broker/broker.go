// Package broker makes the brokers that a service's configuration names.
package broker

import (
	"fmt"
	"log/slog"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/stan"
)

// Config says which brokers a service uses, and where each is.
type Config struct {
	// Use is the name of a broker, or several joined by a plus: the service
	// then publishes to all of them and listens on all.
	Use string `env:"BROKER" envDefault:"stan" doc:"the message broker"`

	Stan stan.Config
}

// New returns the brokers of the configuration. It does not connect. It returns
// an error if Config.Use names none, or one that is not known.
func New(cfg Config, log *slog.Logger) ([]event.Broker, error) {
	if cfg.Use != "stan" && cfg.Use != "" {
		return nil, fmt.Errorf("BROKER is %q: want stan", cfg.Use)
	}
	return []event.Broker{stan.New(cfg.Stan, log)}, nil
}
