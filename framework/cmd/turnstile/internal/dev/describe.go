package dev

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
	Operations    []Operation `json:"operations"`
	Publishes     []Published `json:"publishes"`
	Listens       []Listened  `json:"listens"`
}

// Variable is one environment variable that a service takes.
type Variable struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Default  string `json:"default"`
	Required bool   `json:"required"`
	Doc      string `json:"doc"`
	Example  string `json:"example"`
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

// prefixes returns the paths under which the service is reached: /api/<name> for all below it, others as they are.
func (d Description) prefixes() []string {
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

// home returns the path that stands for the service: its API's.
func (d Description) home() string {
	prefixes := d.prefixes()
	for _, p := range prefixes {
		if strings.HasPrefix(p, "/api/") {
			return p
		}
	}
	if len(prefixes) > 0 {
		return prefixes[0]
	}
	return ""
}

// docs returns the path of the service's documentation, or nothing if it serves no API.
func (d Description) docs() string {
	if home := d.home(); strings.HasPrefix(home, "/api/") {
		return home + "/docs"
	}
	return ""
}
