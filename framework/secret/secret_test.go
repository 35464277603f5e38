package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/secret"
)

func TestNeverShown(t *testing.T) {
	t.Parallel()
	const value = "sk_live_1234"
	s := secret.New(value)
	holder := struct {
		Key    secret.String
		Nested any
		hidden struct{ key secret.String }
	}{Key: s, Nested: &struct{ Key secret.String }{s}, hidden: struct{ key secret.String }{s}}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", &s)
		fmt.Fprintf(&out, verb+"\n", []secret.String{s})
		fmt.Fprintf(&out, verb+"\n", holder)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "key", s, "holder", []any{s})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "key", s, "holder", holder)
	if err := json.NewEncoder(&out).Encode(map[string]any{"key": s, "pointer": &s, "holder": holder}); err != nil {
		t.Fatal(err)
	}

	shown := out.String()
	if strings.Contains(shown, value) || strings.Contains(shown, fmt.Sprintf("%x", value)) || strings.Contains(shown, fmt.Sprintf("%X", value)) {
		t.Errorf("the secret is shown:\n%s", shown)
	}
	if s.Reveal() != value {
		t.Errorf("Reveal() = %q, want %q", s.Reveal(), value)
	}
}

func TestEmptyCanBeToldFromSet(t *testing.T) {
	t.Parallel()
	var unset secret.String
	if got := fmt.Sprintf("[%v][%v]", unset, secret.New("x")); got != "[][***]" {
		t.Errorf("printed %s, want [][***]", got)
	}
}

func TestSetByText(t *testing.T) {
	t.Parallel()
	var s secret.String
	if err := json.Unmarshal([]byte(`"hidden"`), &s); err != nil {
		t.Fatal(err)
	}
	if s.Reveal() != "hidden" {
		t.Errorf("Reveal() = %q, want %q", s.Reveal(), "hidden")
	}
}
