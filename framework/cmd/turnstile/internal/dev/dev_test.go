package dev

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

func surround(override ...string) surroundings {
	return surroundings{
		state: "/ws/.turnstile", gateway: "http://127.0.0.1:8080", nats: "nats://127.0.0.1:4222", cluster: "turnstile",
		base: append([]string{"PATH=/bin", "HOME=/home/x"}, override...), override: variables(override),
	}
}

func describe(names ...string) (d workspace.Description) {
	for _, name := range names {
		d.Configuration = append(d.Configuration, workspace.Variable{Name: name, Required: strings.HasSuffix(name, "_KEY"), Doc: "what for"})
	}
	return d
}

func TestEnviron(t *testing.T) {
	for name, test := range map[string]struct {
		around   surroundings
		takes    []string
		want     []string
		missing  string
		unheeded string
	}{
		"what is known and described": {
			surround(), []string{"DATABASE_URL", "NATS_URL", "STAN_CLUSTER_ID", "CLIENT_ID", "HTTP_ADDR", "ADMIN_ADDR", "DRAIN_DELAY", "LOG_FORMAT", "SESSION_JWKS_URL", "EVENT_JOURNAL", "UNKNOWN"},
			[]string{"ADMIN_ADDR=127.0.0.1:0", "CLIENT_ID=orders", "DATABASE_URL=sqlite:/ws/.turnstile/data/orders.db", "DRAIN_DELAY=0s", "EVENT_JOURNAL=true", "HOME=/home/x",
				"HTTP_ADDR=127.0.0.1:0", "LOG_FORMAT=json", "NATS_URL=nats://127.0.0.1:4222", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json",
				"SESSION_JWKS_URL=http://127.0.0.1:8080/.well-known/jwks.json", "STAN_CLUSTER_ID=turnstile"}, "", "",
		},
		"nothing that is not described": {surround(), nil, []string{"HOME=/home/x", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "", ""},
		"the user goes first": {
			surround("LOG_FORMAT=text", "READY_FILE=/mine", "OTHER=1"), []string{"LOG_FORMAT", "READY_FILE"},
			[]string{"HOME=/home/x", "LOG_FORMAT=text", "OTHER=1", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "", "",
		},
		"for one service": {
			surround("LOG_FORMAT=text", "ORDERS_LOG_FORMAT=json", "TICKETS_DATABASE_URL=x", "ORDERS_DATABASE_URL=postgres://orders"), []string{"LOG_FORMAT", "DATABASE_URL"},
			[]string{"DATABASE_URL=postgres://orders", "HOME=/home/x", "LOG_FORMAT=json", "ORDERS_DATABASE_URL=postgres://orders", "ORDERS_LOG_FORMAT=json", "PATH=/bin",
				"READY_FILE=/ws/.turnstile/ready/orders.json", "TICKETS_DATABASE_URL=x"}, "", "",
		},
		"services do not share a database": {
			surround("DATABASE_URL=postgres://one"), []string{"DATABASE_URL"},
			[]string{"DATABASE_URL=sqlite:/ws/.turnstile/data/orders.db", "HOME=/home/x", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "", "DATABASE_URL",
		},
		"unless the value tells them apart": {
			surround("DATABASE_URL=postgres://h/{service}"), []string{"DATABASE_URL"},
			[]string{"DATABASE_URL=postgres://h/orders", "HOME=/home/x", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "", "",
		},
		"required, and nobody can tell": {surround(), []string{"API_KEY"}, []string{"HOME=/home/x", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "API_KEY", ""},
		"required, and set":             {surround("API_KEY=1"), []string{"API_KEY"}, []string{"API_KEY=1", "HOME=/home/x", "PATH=/bin", "READY_FILE=/ws/.turnstile/ready/orders.json"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			env, missing, unheeded := test.around.environ("orders", describe(test.takes...))
			if !slices.Equal(env, test.want) {
				t.Errorf("environment\n%s\nwant\n%s", strings.Join(env, "\n"), strings.Join(test.want, "\n"))
			}
			var names []string
			for _, v := range missing {
				names = append(names, v.Name)
			}
			if got := strings.Join(names, " "); got != test.missing {
				t.Errorf("missing %q, want %q", got, test.missing)
			}
			if got := strings.Join(unheeded, " "); got != test.unheeded {
				t.Errorf("unheeded %q, want %q", got, test.unheeded)
			}
		})
	}
}

func TestSetGoesBeforeEverything(t *testing.T) {
	s := surround("ORDER_EXPIRATION=1h")
	s.set = map[string]string{"ORDER_EXPIRATION": "5s"}
	env, _, _ := s.environ("orders", describe("ORDER_EXPIRATION"))
	if !slices.Contains(env, "ORDER_EXPIRATION=5s") {
		t.Errorf("environment = %q", env)
	}
}

func TestKinds(t *testing.T) {
	for set, want := range map[string]string{
		"":                                    "stan",
		"BROKER=jetstream":                    "jetstream",
		"BROKER=jetstream+stan":               "jetstream stan",
		"ORDERS_BROKER=stan+jetstream":        "stan jetstream",
		"BROKER=jetstream ORDERS_BROKER=stan": "jetstream stan",
		"OTHERS_BROKER=jetstream":             "stan", // there is no such service
		"BROKER=kafka":                        `BROKER is "kafka": want stan, jetstream or stan+jetstream`,
	} {
		s := surround(strings.Fields(set)...)
		s.services = []string{"orders", "tickets"}
		kinds, err := s.kinds()
		got := strings.Join(kinds, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("with %s there are %s, want %s", set, got, want)
		}
	}
	s := surround("BROKER=jetstream")
	s.set = map[string]string{"BROKER": "stan"}
	if kinds, err := s.kinds(); err != nil || !slices.Equal(kinds, []string{"stan"}) {
		t.Errorf("what is set goes first, but there are %v, %v", kinds, err)
	}
}

func TestDotEnv(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".env")
	if env, err := DotEnv(file); err != nil || env != nil {
		t.Errorf("a missing file = %q, %v", env, err)
	}
	for text, want := range map[string]string{
		"A=1\n\n# comment\nexport B = two words # remark\nC=\"x\\ty # no remark\"\nD='$E'\nF=": "A=1|B=two words|C=x\ty # no remark|D=$E|F=",
		"A=1\nnonsense": "line 2: want NAME=value",
		"A=\"open":      "line 1: the value of A is not quoted well",
		"A B=1":         "line 1: want NAME=value",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		env, err := DotEnv(file)
		got := strings.Join(env, "|")
		if err != nil {
			got = err.Error()
		}
		if got != want && !(err != nil && strings.HasSuffix(got, want)) {
			t.Errorf("%q = %q, want %q", text, got, want)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	// What a process that was killed leaves behind is no obstacle.
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(`{"pid":1,"url":"http://old"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	held, err := lock(dir, "http://127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir, "http://127.0.0.1:8081")
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.PID != os.Getpid() || locked.URL != "http://127.0.0.1:8080" {
		t.Errorf("a second lock = %v, want who has the first", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(dir, "")
	if err != nil {
		t.Fatalf("the lock is not free after its holder has gone: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPaths(t *testing.T) {
	d := workspace.Description{Operations: []workspace.Operation{
		{Path: "/.well-known/jwks.json"}, {Path: "/api/users/signup"}, {Path: "/api/users/{id}"}, {Path: "/files/{name}"}, {Path: "/{anything}"},
	}}
	if got, want := strings.Join(d.Prefixes(), " "), "/.well-known/jwks.json /api/users /files"; got != want {
		t.Errorf("prefixes = %s, want %s", got, want)
	}
	if home(d) != "/api/users" || docs(d) != "/api/users/docs" {
		t.Errorf("home = %s, docs = %s", home(d), docs(d))
	}
	if none := (workspace.Description{}); home(none) != "" || docs(none) != "" || none.Prefixes() != nil {
		t.Error("a service without operations has paths")
	}
}
