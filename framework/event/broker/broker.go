// Package broker makes the brokers that a service's configuration names.
package broker

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
	"github.com/turnstile-go/turnstile/framework/event/stan"
)

// Config says which brokers a service uses, and where each is.
type Config struct {
	// Use is the name of a broker, or several joined by a plus, in any order:
	// the service then publishes to all of them and listens on all. Empty means
	// stan.
	Use string `env:"BROKER" envDefault:"stan" doc:"the message broker: stan, jetstream, or stan+jetstream to use both while moving from one to the other"`

	Stan      stan.Config
	JetStream jetstream.Config
}

// New returns the brokers of the configuration, each once. It does not connect.
// It returns an error if Config.Use names one that is not known.
func New(cfg Config, log *slog.Logger) ([]event.Broker, error) {
	if cfg.Use == "" {
		cfg.Use = "stan"
	}
	var brokers []event.Broker
	names := strings.Split(cfg.Use, "+")
	for i, name := range names {
		switch {
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("BROKER is %q: %s is in it twice", cfg.Use, name)
		case name == "stan":
			brokers = append(brokers, stan.New(cfg.Stan, log))
		case name == "jetstream":
			brokers = append(brokers, jetstream.New(cfg.JetStream, log))
		default:
			return nil, fmt.Errorf("BROKER is %q: want stan, jetstream or stan+jetstream", cfg.Use)
		}
	}
	return brokers, nil
}
