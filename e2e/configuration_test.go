package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// variable is what a service says of an environment variable.
type variable struct {
	Name, Type, Default, Doc, Example string
	Required, Secret                  bool
}

const configurationHead = `# Configuration

Services take everything from environment variables. Those that are missing or wrong are reported all at once, by name,
before anything is opened; the exit code is 2 then. An empty value counts as not set. Durations are written as in
` + "`500ms`, `30s` or `15m`" + `.

` + "`<service> describe`" + ` prints this as JSON, together with the events, the operations and the probes of the service.
` + "`turnstile dev`" + ` sets what it must (databases, addresses, the broker) and passes on what you set: ` + "`NAME`" + ` for every
service that takes it, ` + "`<SERVICE>_NAME`" + ` for one, from the environment or from a file ` + "`.env`" + ` beside ` + "`go.work`" + `.

This page is made from what the services say:

` + "```" + `
go test ./e2e -run TestConfiguration -update
` + "```" + `
`

// TestConfiguration holds docs/configuration.md to what the services say of themselves.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	built := build(t)
	var order []variable
	takers := map[string][]string{}
	for _, name := range services {
		cmd := exec.Command(filepath.Join(built, "bin", name), "describe")
		cmd.Env = environ()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		var description struct{ Configuration []variable }
		if err := json.Unmarshal(out, &description); err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		for _, v := range description.Configuration {
			if takers[v.Name] == nil {
				order = append(order, v)
			}
			takers[v.Name] = append(takers[v.Name], name)
			if v.Doc == "" {
				t.Errorf("%s: %s has no doc", name, v.Name)
			}
		}
	}
	text := configurationHead + section("Every service", order, func(v variable) bool { return len(takers[v.Name]) == len(services) })
	for _, name := range services {
		text += section(name, order, func(v variable) bool {
			return len(takers[v.Name]) < len(services) && slices.Contains(takers[v.Name], name)
		})
	}
	file := filepath.Join(root(), "docs", "configuration.md")
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, file) != text {
		t.Error("docs/configuration.md is not what the services say; run: go test ./e2e -run TestConfiguration -update")
	}
}

// section is the table of the variables that belong to it; nothing if none does.
func section(title string, variables []variable, belongs func(variable) bool) string {
	if !slices.ContainsFunc(variables, belongs) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## %s\n\n| variable | type | default | what it is |\n|---|---|---|---|\n", title)
	for _, v := range variables {
		if !belongs(v) {
			continue
		}
		value := "—"
		switch {
		case v.Default != "":
			value = "`" + v.Default + "`"
		case v.Required && v.Example != "":
			value = "**required**, such as `" + v.Example + "`"
		case v.Required:
			value = "**required**"
		case v.Example != "":
			value = "— (such as `" + v.Example + "`)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, v.Type, value, strings.ReplaceAll(v.Doc, "|", `\|`))
	}
	return b.String()
}
