package dev

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/process"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/workspace"
)

// surroundings are what the variables of a service are derived from.
type surroundings struct {
	state     string            // folder of databases and the like
	gateway   string            // URL
	nats      string            // URL of NATS Streaming, if it is used
	cluster   string            // its cluster id
	jetstream string            // URL of JetStream, if it is used
	services  []string          // names of all services
	base      []string          // environment that every child gets, save for what services describe
	file      []string          // more of it, from a file: what is for one service by its name is for that one only
	override  map[string]string // what the user has set
	set       map[string]string // what goes before anything else
}

// Each service needs a value of its own for these. One that is set for all of them would have services share a
// database or a port, so it must contain {service} to count.
var private = []string{"DATABASE_URL", "CLIENT_ID", "HTTP_ADDR", "ADMIN_ADDR", "POD_NAME"}

// derived returns our value of a variable that we know the meaning of.
func (s surroundings) derived(service, variable string) (value string, ok bool) {
	switch variable {
	case "DATABASE_URL":
		value = "sqlite:" + DatabasePath(s.state, service)
	case "NATS_URL":
		value = s.nats
	case "STAN_CLUSTER_ID":
		value = s.cluster
	case "JETSTREAM_URL":
		value = s.jetstream
	case "CLIENT_ID", "POD_NAME":
		value = service
	case "HTTP_ADDR", "ADMIN_ADDR":
		value = "127.0.0.1:0"
	case "LOG_FORMAT":
		value = "json"
	case "DRAIN_DELAY": // no load balancer has to take notice
		value = "0s"
	case "DRAIN_TIMEOUT":
		value = "10s"
	case "SESSION_JWKS_URL":
		value = s.gateway + "/.well-known/jwks.json"
	case "EVENT_JOURNAL":
		value = "true"
	default:
		return "", false
	}
	return value, value != ""
}

// value returns a service's value of a variable, if it has one. heeded is false if the user has set, for all services, a
// variable that each needs for itself.
func (s surroundings) value(service, variable string) (value string, ok, heeded bool) {
	if value, ok = s.set[variable]; ok {
		return value, true, true
	}
	if value, ok = s.override[prefixOf(service)+variable]; ok {
		return value, true, true
	}
	value, ok = s.override[variable]
	if heeded = !ok || !slices.Contains(private, variable) || strings.Contains(value, "{service}"); ok && heeded {
		return strings.ReplaceAll(value, "{service}", service), true, true
	}
	value, ok = s.derived(service, variable)
	return value, ok, heeded
}

// environ returns the environment of a service, the variables that it requires and nobody has set, and those of the
// user's that were not heeded.
func (s surroundings) environ(service string, d workspace.Description) (env []string, missing []workspace.Variable, unheeded []string) {
	described := map[string]bool{"READY_FILE": true}
	values := []string{"READY_FILE=" + s.readyFile(service)}
	for _, v := range d.Configuration {
		if described[v.Name] {
			continue
		}
		described[v.Name] = true
		value, ok, heeded := s.value(service, v.Name)
		if !heeded {
			unheeded = append(unheeded, v.Name)
		}
		if ok {
			values = append(values, v.Name+"="+value)
		}
		if v.Required && value == "" {
			missing = append(missing, v)
		}
	}
	file := slices.DeleteFunc(slices.Clone(s.file), func(kv string) bool {
		return slices.ContainsFunc(s.services, func(other string) bool {
			return other != service && strings.HasPrefix(kv, prefixOf(other))
		})
	})
	base := slices.DeleteFunc(process.Environ(file, s.base), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return described[name]
	})
	return process.Environ(base, values), missing, unheeded
}

// prefixOf is what variables that are for one service begin with.
func prefixOf(service string) string {
	return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(service)) + "_"
}

func (s surroundings) readyFile(name string) string {
	return filepath.Join(s.state, "ready", name+".json")
}

// DotEnv reads a file of NAME=value lines: blank lines, comments (#), a leading export and quotes are allowed. A
// file that is not there is empty.
func DotEnv(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	var env []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || strings.ContainsAny(name, " \t\"'") {
			return nil, fmt.Errorf("%s, line %d: want NAME=value", file, n)
		}
		switch {
		case strings.HasPrefix(value, `"`):
			if value, err = strconv.Unquote(value); err != nil {
				return nil, fmt.Errorf("%s, line %d: the value of %s is not quoted well", file, n, name)
			}
		case len(value) > 1 && value[0] == '\'' && value[len(value)-1] == '\'':
			value = value[1 : len(value)-1]
		default:
			value, _, _ = strings.Cut(value, " #")
			value = strings.TrimSpace(value)
		}
		env = append(env, name+"="+value)
	}
	return env, lines.Err()
}

func variables(env []string) map[string]string {
	m := make(map[string]string, len(env))
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		m[name] = value
	}
	return m
}

// DatabaseURL returns the database that a System with this folder for state gives a service: its own, or one that the
// user has set in the environment or the file of more of it.
func DatabaseURL(state, dotEnv string, environ []string, service string) (string, error) {
	file, err := DotEnv(dotEnv)
	if err != nil {
		return "", err
	}
	s := surroundings{state: state, override: variables(process.Environ(file, environ))}
	value, _, _ := s.value(service, "DATABASE_URL")
	return value, nil
}

// DatabasePath returns the file of a service's database, given the folder of all state.
func DatabasePath(state, service string) string {
	return filepath.Join(state, "data", service+".db")
}
