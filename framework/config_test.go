package framework_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/secret"
)

type ordersConfig struct {
	DatabaseURL string        `env:"DATABASE_URL,required" doc:"where the orders are kept" example:"sqlite:orders.db" secret:"true"`
	Key         secret.String `env:"STRIPE_KEY,required" doc:"secret key of the payment provider"`
	Expiration  time.Duration `env:"ORDER_EXPIRATION" envDefault:"15m" doc:"time in which an order is to be paid"`
	Events      struct {
		Workers int `env:"WORKERS" envDefault:"4" doc:"events handled at a time"`
	} `envPrefix:"EVENT_"`
}

func TestAllThatIsWrongWithTheConfigurationIsReportedTogether(t *testing.T) {
	t.Parallel()
	err := framework.Run(t.Context(), "orders", func(*framework.Service, ordersConfig) error {
		t.Error("built in spite of a wrong configuration")
		return nil
	}, framework.Options{Environ: []string{
		"STRIPE_KEY=", "ORDER_EXPIRATION=15", "EVENT_WORKERS=many", "LOG_FORMAT=xml", "LOG_LEVEL=loud",
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "UNRELATED=1",
	}})
	if err == nil {
		t.Fatal("Run = nil")
	}
	want := `configuration is not usable:
  LOG_LEVEL is "loud" (want DEBUG, INFO, WARN or ERROR)
  LOG_FORMAT is "xml" (want auto, json or text)
  OTEL_EXPORTER_OTLP_ENDPOINT is "collector:4317" (want a URL such as http://collector:4318)
  OTEL_EXPORTER_OTLP_PROTOCOL is "grpc" (want http/protobuf, nothing else is built in)
  DATABASE_URL is required and not set, want a string such as sqlite:orders.db: where the orders are kept
  STRIPE_KEY is required and not set, want a string: secret key of the payment provider
  ORDER_EXPIRATION is "15", want a duration such as 500ms, 30s or 5m
  EVENT_WORKERS is "many", want a whole number
` + "`orders describe` lists all variables"
	if err.Error() != want {
		t.Errorf("Run = %v\nwant: %s", err, want)
	}
}

func TestConfigurationReachesBuild(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var got ordersConfig
	err := framework.Run(ctx, "orders", func(s *framework.Service, c ordersConfig) error {
		got = c
		if s.Name != "orders" || s.Instance != "orders-7" || s.Version == "" {
			t.Errorf("service is %q %q %q", s.Name, s.Instance, s.Version)
		}
		return nil
	}, framework.Options{
		Environ: []string{"DATABASE_URL=sqlite::memory:", "STRIPE_KEY=sk", "EVENT_WORKERS=8", "POD_NAME=orders-7", "ADMIN_ADDR=127.0.0.1:0", "DRAIN_DELAY=0s"},
		Ready:   func(map[string]string) { cancel() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.DatabaseURL != "sqlite::memory:" || got.Key.Reveal() != "sk" || got.Expiration != 15*time.Minute || got.Events.Workers != 8 {
		t.Errorf("build got %+v", got)
	}
}

func describe(t *testing.T, build func(s *framework.Service, c ordersConfig) error) (map[string]any, error) {
	t.Helper()
	var out buffer
	err := framework.Run(t.Context(), "orders", build, framework.Options{Args: []string{"describe"}, Stdout: &out})
	if err != nil {
		return nil, err
	}
	var d map[string]any
	if err := json.Unmarshal([]byte(out.String()), &d); err != nil {
		t.Fatalf("describe prints %s", out.String())
	}
	return d, nil
}

func TestDescribeNeedsNoEnvironment(t *testing.T) {
	t.Parallel()
	d, err := describe(t, func(s *framework.Service, c ordersConfig) error {
		if c.DatabaseURL != "sqlite:orders.db" || c.Key.Reveal() != "" || c.Events.Workers != 4 {
			t.Errorf("built with %+v, want defaults and examples", c)
		}
		if s.Log == nil || s.LogLevel == nil || s.Tracer == nil || s.Meter == nil {
			t.Error("built without a logger or telemetry")
		}
		opens := func(context.Context) error { t.Error("describe runs parts"); return nil }
		s.Add("events", &fake{start: opens, run: opens, migrate: opens, describe: map[string]any{
			"publishes": []map[string]string{{"type": "order.created"}},
			"schemas":   map[string]string{"order.created": "…"},
			"workers":   4,
		}})
		s.Add("expiry", &fake{describe: map[string]any{
			"publishes": []any{map[string]string{"type": "order.expired"}},
			"schemas":   map[string]int{"order.expired": 1},
		}})
		s.Add("bare", bare(opens))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]any{}
	for _, v := range d["configuration"].([]any) {
		variables[v.(map[string]any)["name"].(string)] = v
	}
	for name, want := range map[string]map[string]any{
		"DATABASE_URL": {"name": "DATABASE_URL", "type": "string", "required": true, "secret": true, "doc": "where the orders are kept", "example": "sqlite:orders.db"},
		"STRIPE_KEY":   {"name": "STRIPE_KEY", "type": "string", "required": true, "secret": true, "doc": "secret key of the payment provider"},
		"ORDER_EXPIRATION": {"name": "ORDER_EXPIRATION", "type": "duration", "required": false, "secret": false, "default": "15m",
			"doc": "time in which an order is to be paid"},
		"EVENT_WORKERS": {"name": "EVENT_WORKERS", "type": "integer", "required": false, "secret": false, "default": "4", "doc": "events handled at a time"},
		"ADMIN_ADDR": {"name": "ADMIN_ADDR", "type": "string", "required": false, "secret": false, "default": ":9090",
			"doc": "address of the probes, metrics and debug pages"},
	} {
		if !reflect.DeepEqual(variables[name], any(want)) {
			t.Errorf("%s is described as %v, want %v", name, variables[name], want)
		}
	}
	delete(d, "configuration")
	delete(d, "version")
	want := map[string]any{
		"name":      "orders",
		"probes":    map[string]any{"address": ":9090", "live": "/livez", "ready": "/readyz", "startup": "/startupz", "metrics": "/metrics"},
		"publishes": []any{map[string]any{"type": "order.created"}, map[string]any{"type": "order.expired"}},
		"schemas":   map[string]any{"order.created": "…", "order.expired": 1.0},
		"stop":      map[string]any{"after_drain": "5.5s"},
		"workers":   4.0,
	}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("described: %v\nwant: %v", d, want)
	}
}

func TestDescribeNamesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	for want, build := range map[string]func(s *framework.Service) error{
		`"schemas" of events and of expiry: both have "order.created"`: func(s *framework.Service) error {
			s.Add("events", &fake{describe: map[string]any{"schemas": map[string]any{"order.created": 1}}})
			s.Add("expiry", &fake{describe: map[string]any{"schemas": map[string]any{"order.created": 2}}})
			return nil
		},
		`"name" of framework and of events: neither two lists nor two objects`: func(s *framework.Service) error {
			s.Add("events", &fake{describe: map[string]any{"name": "mine"}})
			return nil
		},
		`build orders: unknown database`: func(*framework.Service) error { return errors.New("unknown database") },
	} {
		_, err := describe(t, func(s *framework.Service, _ ordersConfig) error { return build(s) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("describe = %v, want %s", err, want)
		}
	}
}

// picky is a part with a setting that may change while it runs.
type picky struct{ bare }

func (picky) Adjust() map[string]func(string) error {
	return map[string]func(string) error{"EVENT_WORKERS": func(value string) error {
		if value == "0" {
			return errors.New("want 1 or more")
		}
		return nil
	}}
}

func TestCheckJudgesTheEnvironmentAndOpensNothing(t *testing.T) {
	t.Parallel()
	opens := func(context.Context) error { t.Error("check runs parts"); return nil }
	for environ, want := range map[string]string{
		"DATABASE_URL=x STRIPE_KEY=sk EVENT_WORKERS=2":                   "",
		"DATABASE_URL=x STRIPE_KEY=sk EVENT_WORKERS=0":                   "orders: EVENT_WORKERS is \"0\", want 1 or more\n",
		"DATABASE_URL=x STRIPE_KEY=sk LOG_LEVEL=LOUD DRAIN_DELAY=5":      "  LOG_LEVEL is \"LOUD\" (want DEBUG, INFO, WARN or ERROR)\n  DRAIN_DELAY is \"5\", want a duration",
		"DATABASE_URL=x STRIPE_KEY=sk ORDER_EXPIRATION=0s ADMIN_ADDR=:0": "orders: build orders: ORDER_EXPIRATION is 0s\n",
	} {
		var out, stderr buffer
		err := framework.Run(t.Context(), "orders", func(s *framework.Service, c ordersConfig) error {
			if c.Expiration == 0 {
				return errors.New("ORDER_EXPIRATION is 0s")
			}
			s.Log.Info("built")
			s.Add("events", picky{opens})
			return nil
		}, framework.Options{Args: []string{"check"}, Environ: strings.Fields(environ), Stdout: &out, Stderr: &stderr})
		if (err == nil) != (want == "") || !strings.Contains(stderr.String(), want) || out.String() != "" {
			t.Errorf("check of %s = %v, prints %q and %q, want %q", environ, err, out.String(), stderr.String(), want)
		}
	}
}
