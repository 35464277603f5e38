package e2e

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/turnstile-go/turnstile/"

// layers says which packages of this repository a package may import: for the first line that matches its path, those
// that match one of the patterns. $1 stands for what the first parentheses matched. Tests are free, but for other
// services' insides.
var layers = []struct {
	packages string
	may      []string
}{
	{`services/(\w+)`, []string{`framework/event`}}, // what others know of a service is its events and ids
	{`services/(\w+)/cmd/\w+`, []string{`framework`, `services/$1/service`}},
	{`services/(\w+)/service`, []string{`framework(/.+)?`, `services/$1/internal/.+`}},
	{`services/(\w+)/internal/server`, []string{`framework/.+`, `services/\w+`, `services/$1/internal/.+`}},
	{`services/(\w+)/internal/store`, []string{`framework/(database|web/session)`, `services/$1/internal/(user|ticket|order|payment)`}},
	{`services/(payments)/internal/(sandbox|stripe)`, []string{`framework/(database|secret)`, `services/$1/internal/payment`}},
	{`services/(payments)/internal/providertest`, []string{`services/$1/internal/payment`}}, // for tests
	{`services/payments/internal/stripe/stripetest`, nil},                                   // for tests
	{`services/(\w+)/internal/\w+`, nil},                                                    // the thing and its rules

	{`framework`, []string{`framework/(internal/.+|secret)`}}, // parts satisfy its interfaces: it knows none of them
	{`framework/servicetest`, []string{`framework(/.+)?`}},    // for tests
	{`framework/secret`, nil},
	{`framework/internal/.+`, []string{`framework/(internal/.+|secret)`}},
	{`framework/database`, []string{`framework/(internal/.+|secret)`}},
	{`framework/database/\w+`, []string{`framework/database`}},
	{`framework/event`, []string{`framework/(database|event/admin|internal/.+)`}},
	{`framework/event/admin`, []string{`framework/database`}}, // operators look at any ledger, whatever wrote it
	{`framework/event/broker`, []string{`framework/event(/stan|/jetstream)?`}},
	{`framework/event/(stan/stanserver|jetstream/jetstreamserver)`, []string{`framework/internal/natsserver`}},
	{`framework/event/internal/\w+`, []string{`framework/(event|database.*)`}}, // for tests
	{`framework/event/\w+`, []string{`framework/(event|database.*|internal/.+|secret)`}},
	{`framework/web`, []string{`framework/(database|internal/.+)`}},
	{`framework/web/session`, []string{`framework/(web|event|database|secret|internal/.+)`}},
	{`framework/web/session/\w+`, []string{`framework/web/session`}},
	{`framework/kube`, []string{`framework`, `framework/internal/.+`}},
	{`framework/cmd/turnstile(/.+)?`, []string{`framework/(cmd/turnstile/internal/.+|database|internal/(adminport|memory)|event|event/(admin|broker|stan/stanserver|jetstream/jetstreamserver))`}},

	{`e2e/(cmd|internal)/.+`, []string{`framework/(database|database/databasetest|event/admin)`, `e2e/internal/.+`}},
	{`e2e/conformance`, []string{`e2e/internal/journey`}},
	{`e2e/fuzz`, []string{`e2e/internal/invariants`}},
	{`e2e/sim`, nil}, // all tests
}

// libraries says who may import a library that should be at home in one place.
var libraries = map[string]string{
	"k8s.io/":                          `framework/kube(/.+)?|framework/cmd/turnstile(/internal/(externalmetrics|manifests))?|e2e/internal/cluster`,
	"github.com/nats-io/":              `framework/(event/(stan|jetstream)(/.+)?|internal/(natsconn|natsserver))`,
	"github.com/jackc/pgx/":            `framework/database(/.+)?`,
	"github.com/pressly/goose/":        `framework/database`,
	"modernc.org/sqlite":               `framework/database`,
	"github.com/labstack/echo/":        `framework/web`,
	"github.com/golang-jwt/":           `framework/web/session`,
	"github.com/alexedwards/argon2id":  `services/auth/internal/user`,
	"github.com/stripe/stripe-go/":     `services/payments/internal/stripe(/stripetest)?`,
	"github.com/caarlos0/env/":         `framework/internal/config`,
	"github.com/prometheus/":           `framework/internal/telemetry`,
	"go.opentelemetry.io/otel/sdk":     `framework/internal/telemetry`,
	"go.opentelemetry.io/otel/exporte": `framework/internal/telemetry`,
	"github.com/spf13/cobra":           `framework/cmd/turnstile`,
	"sigs.k8s.io/kustomize/":           `framework/cmd/turnstile/internal/manifests`,
	"github.com/oasdiff/":              `framework/cmd/turnstile/internal/openapi`,
	"github.com/getkin/kin-openapi/":   `framework/cmd/turnstile/internal/openapi`,
	"github.com/Shopify/toxiproxy":     `e2e/internal/link`,
}

// imports returns what every package of the repository imports, by its path below the module prefix; the imports of
// its tests are under the path with _test.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string]map[string]bool{}
	for _, top := range []string{"framework", "services", "e2e"} {
		err := filepath.WalkDir(filepath.Join(root(), top), func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".")):
				return fs.SkipDir
			case d.IsDir() || filepath.Ext(file) != ".go":
				return nil
			}
			dir, err := filepath.Rel(root(), filepath.Dir(file))
			if err != nil {
				return err
			}
			name := filepath.ToSlash(dir)
			if strings.HasSuffix(file, "_test.go") {
				name += "_test"
			}
			if all[name] == nil {
				all[name] = map[string]bool{}
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, spec := range parsed.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				all[name][imported] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	packages := map[string][]string{}
	for name, set := range all {
		packages[name] = slices.Sorted(maps.Keys(set))
	}
	return packages
}

// TestImports holds the direction in which packages depend on each other.
func TestImports(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	packages := imports(t)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		code, isTest := strings.CutSuffix(name, "_test")
		for _, imported := range packages[name] {
			for library, homes := range libraries {
				if strings.HasPrefix(imported, library) && !isTest {
					used[library] = true
					if !matches(homes, code) {
						t.Errorf("%s imports %s, which only %s may", name, imported, homes)
					}
				}
			}
			inside, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if isTest {
				whole := code == "e2e/sim" && strings.HasSuffix(inside, "/service") // all services in one process
				if of, mine := serviceOf(inside), serviceOf(code); of != "" && of != mine && strings.Count(inside, "/") > 1 && !whole {
					t.Errorf("%s imports %s: of other services, only the root package", name, inside)
				}
				continue
			}
			if !allowed(t, code, inside) {
				t.Errorf("%s must not import %s", name, inside)
			}
		}
	}
	for library := range libraries {
		if !used[library] {
			t.Errorf("nobody imports %s: take it off the list", library)
		}
	}
}

// allowed reports whether the layers let a package import another.
func allowed(t *testing.T, name, imported string) bool {
	for _, l := range layers {
		pattern := regexp.MustCompile(`^(?:` + l.packages + `)$`)
		match := pattern.FindStringSubmatchIndex(name)
		if match == nil {
			continue
		}
		for _, may := range l.may {
			if matches(string(pattern.ExpandString(nil, strings.ReplaceAll(may, "$1", "${1}"), name, match)), imported) {
				return true
			}
		}
		return false
	}
	t.Errorf("no layer is given for %s", name)
	return true
}

func matches(pattern, name string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(name)
}

// serviceOf returns the name of the service that a package belongs to, if it does.
func serviceOf(name string) string {
	if rest, ok := strings.CutPrefix(name, "services/"); ok {
		name, _, _ = strings.Cut(rest, "/")
		return name
	}
	return ""
}

// TestDirection has the rules refuse what they are there for.
func TestDirection(t *testing.T) {
	t.Parallel()
	for _, wrong := range [][2]string{
		{"framework", "framework/event"},
		{"framework", "framework/web"},
		{"framework/event", "framework/web"},
		{"framework/event", "framework"},
		{"framework/web", "framework/event"},
		{"framework/database", "services/orders"},
		{"services/orders", "services/tickets"},
		{"services/orders", "framework"},
		{"services/orders/cmd/orders", "services/tickets/service"},
		{"services/orders/service", "services/tickets/internal/server"},
		{"services/orders/internal/server", "framework"},
		{"services/orders/internal/server", "services/tickets/service"},
		{"services/orders/internal/store", "services/orders"},
		{"services/orders/internal/store", "services/orders/internal/server"},
		{"services/orders/internal/store", "framework/event"},
		{"services/orders/internal/order", "services/orders/internal/store"},
		{"services/orders/internal/order", "framework/database"},
	} {
		if allowed(t, wrong[0], wrong[1]) {
			t.Errorf("%s may import %s", wrong[0], wrong[1])
		}
	}
	for _, right := range [][2]string{
		{"services/orders/internal/server", "services/tickets"},
		{"services/orders/internal/server", "services/orders/internal/store"},
		{"services/orders/service", "framework"},
	} {
		if !allowed(t, right[0], right[1]) {
			t.Errorf("%s may not import %s", right[0], right[1])
		}
	}
}
