package server

import (
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/broker"
	"github.com/turnstile-go/turnstile/framework/kube"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe"
)

// Config is what the service takes from its environment.
type Config struct {
	Database database.Config
	Events   event.Config
	Broker   broker.Config
	HTTP     web.Config
	Session  session.Config
	Kube     kube.Config
	Stripe   stripe.Config

	// Provider moves the money: sandbox or stripe.
	Provider string `env:"PAYMENT_PROVIDER" envDefault:"sandbox" doc:"who moves the money: sandbox, which is built in and moves none, or stripe"`

	// ProviderTimeout is how long the provider of payments may take to answer.
	// After that a payment stays pending.
	ProviderTimeout time.Duration `env:"PAYMENT_TIMEOUT" envDefault:"10s" doc:"how long the payment provider may take to answer, tries included"`

	// Recovery is how often payments are looked for that are not settled.
	Recovery time.Duration `env:"PAYMENT_RECOVERY" envDefault:"5s" doc:"how often to look for payments and refunds that a crash or a silent provider left behind, and settle them"`

	// SandboxDelay is how late the sandbox answers to the token tok_timeout.
	SandboxDelay time.Duration `env:"SANDBOX_DELAY" envDefault:"3s" doc:"how late the sandbox provider answers to tok_timeout"`
}
