package workspace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Description is what a service says of itself (`<service> describe`), as far as it is needed here.
type Description struct {
	Name          string      `json:"name"`
	Configuration []Variable  `json:"configuration"`
	Probes        Probes      `json:"probes"`
	Stop          Stop        `json:"stop"`
	Operations    []Operation `json:"operations"`
	Publishes     []Published `json:"publishes"`
	Listens       []Listened  `json:"listens"`
	Kubernetes    Kubernetes  `json:"kubernetes"`

	OpenAPI map[string]json.RawMessage `json:"openapi"` // the documents of its APIs, by their names
}

// Variable is one environment variable that a service takes.
type Variable struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Default    string `json:"default"`
	Required   bool   `json:"required"`
	Secret     bool   `json:"secret"`
	Adjustable bool   `json:"adjustable"` // may change while the service runs
	Calls      string `json:"calls"`      // the service whose URL it takes
	Doc        string `json:"doc"`
	Example    string `json:"example"`
}

// Probes are the paths on the admin port.
type Probes struct {
	Live    string `json:"live"`
	Ready   string `json:"ready"`
	Startup string `json:"startup"`
}

// Stop is how a service stops.
type Stop struct {
	AfterDrain string `json:"after_drain"` // the longest that it takes when DRAIN_TIMEOUT has passed
}

// Operation is one HTTP operation of a service.
type Operation struct {
	Method string `json:"method"`
	Path   string `json:"path"`
}

// Published is an event type that a service publishes.
type Published struct {
	Stream string `json:"stream"`
	Type   string `json:"type"`
}

// Listened is an event type that a group of the service handles.
type Listened struct {
	Group  string `json:"group"`
	Stream string `json:"stream"`
	Type   string `json:"type"`
}

// Kubernetes is what a service asks of the API server.
type Kubernetes struct {
	Rules []Rule `json:"rules"`
}

// Rule is something that a service does at the API server: what a Role of its own must allow.
type Rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames"` // all if empty
	Verbs         []string `json:"verbs"`
}

// Prefixes returns the paths under which the service is reached: /api/<name> for all below it, others as they are.
func (d Description) Prefixes() []string {
	var list []string
	for _, o := range d.Operations {
		path, _, _ := strings.Cut(o.Path, "{")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		if parts[0] == "" {
			continue
		}
		prefix := "/" + strings.Join(parts, "/")
		if parts[0] == "api" && len(parts) > 1 {
			prefix = "/api/" + parts[1]
		}
		list = append(list, prefix)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Describe asks a service's program what it is.
func Describe(ctx context.Context, program string, env []string) (Description, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "describe")
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Description{}, fmt.Errorf("%s describe: %w\n%s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	var d Description
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		return Description{}, fmt.Errorf("%s describe: %w", program, err)
	}
	if d.Name == "" {
		return Description{}, errors.New(program + " describe: it does not say its name")
	}
	return d, nil
}
