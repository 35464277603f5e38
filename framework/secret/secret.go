// Package secret has the type of a configuration value that must not be shown.
//
//	type Config struct {
//		Key secret.String `env:"STRIPE_KEY,required" doc:"secret key of the Stripe account"`
//	}
//
// Printed, logged or encoded, a String shows *** and not what it holds; [String.Reveal] is the only way
// to the value, so that a search for Reveal finds every place that uses one. It does not protect the
// value in memory.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

const masked = "***"

// String is text that prints as ***. The zero value is the empty secret, which prints as nothing, so that
// "not set" can be told from "set" in a log. Compare what Reveal returns: two secrets of the same text are
// not equal by ==.
type String struct {
	// A pointer, because fmt prints the unexported fields of a struct that holds a String without asking it.
	value *string
}

// New returns value as a secret.
func New(value string) String { return String{&value} }

// Reveal returns the value itself.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// String returns *** or, of the empty secret, "".
func (s String) String() string {
	if s.Reveal() == "" {
		return ""
	}
	return masked
}

// Format implements [fmt.Formatter], so that no verb shows the value.
func (s String) Format(f fmt.State, verb rune) {
	if verb == 'q' || (verb == 'v' && f.Flag('#')) {
		fmt.Fprintf(f, "%q", s.String())
		return
	}
	_, _ = io.WriteString(f, s.String()) // fmt.State keeps its own error
}

// LogValue implements [slog.LogValuer].
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements [encoding.TextMarshaler], and with it what JSON shows.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]: it is how configuration sets the value.
func (s *String) UnmarshalText(text []byte) error {
	*s = New(string(text))
	return nil
}
