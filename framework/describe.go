package framework

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/metric/noop"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/turnstile-go/turnstile/framework/internal/config"
	"github.com/turnstile-go/turnstile/framework/internal/logs"
)

// describe prints what the service is, with nothing but its code to go by.
func (p *program) describe() error {
	if err := config.Examples(p.configuration); err != nil {
		return fmt.Errorf("describe %s: %w", p.name, err)
	}
	s := &Service{Name: p.name, Version: version(), Instance: p.name}
	s.silence()
	if err := p.assemble(s); err != nil {
		return fmt.Errorf("describe %s: %w", p.name, err)
	}
	description, err := p.description(s)
	if err != nil {
		return err
	}
	_, err = p.options.Stdout.Write(description)
	return err
}

// check says what of the environment the service could not run with, opening nothing.
func (p *program) check() error {
	s, err := p.load()
	if err != nil {
		return err
	}
	s.silence()
	if err := p.assemble(s); err != nil {
		return usageError{err}
	}
	if err := s.checkAdjustable(); err != nil {
		return usageError{err}
	}
	return nil
}

// silence gives the service what a build function may use, and has nothing come of it.
func (s *Service) silence() {
	s.Log, s.LogLevel, s.notices = slog.New(slog.DiscardHandler), new(slog.LevelVar), new(logs.Notices)
	s.Tracer, s.Meter = nooptrace.NewTracerProvider(), noop.NewMeterProvider()
}

// description is the JSON of what the service is.
func (p *program) description(s *Service) ([]byte, error) {
	variables, err := config.Variables(p.configuration)
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", p.name, err)
	}
	s.describeAdjustable(variables)
	d := map[string]any{
		"name":          s.Name,
		"version":       s.Version,
		"configuration": variables,
		"probes": map[string]string{
			"address": p.process.AdminAddr, "live": "/livez", "ready": "/readyz", "startup": "/startupz", "metrics": "/metrics",
		},
		"stop": map[string]string{"after_drain": (lastGrace + flushTimeout).String()},
	}
	from := make(map[string]string, len(d))
	for key := range d {
		from[key] = "framework"
	}
	for _, part := range s.parts {
		described, ok := part.Part.(describer)
		if !ok {
			continue
		}
		for key, value := range described.Describe() {
			if earlier, again := from[key]; again {
				if value, err = join(d[key], value); err != nil {
					return nil, fmt.Errorf("describe %s: %q of %s and of %s: %w", p.name, key, earlier, part.name, err)
				}
			}
			d[key], from[key] = value, part.name
		}
	}
	out, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describe %s: %w", p.name, err)
	}
	return append(out, '\n'), nil
}

// join joins two lists or two objects.
func join(a, b any) (any, error) {
	var lists [2][]any
	if plain(a, &lists[0]) && plain(b, &lists[1]) {
		return append(lists[0], lists[1]...), nil
	}
	var objects [2]map[string]any
	if !plain(a, &objects[0]) || !plain(b, &objects[1]) {
		return nil, errors.New("neither two lists nor two objects")
	}
	joined := make(map[string]any, len(objects[0])+len(objects[1]))
	for _, o := range objects {
		for key, value := range o {
			if _, taken := joined[key]; taken {
				return nil, fmt.Errorf("both have %q", key)
			}
			joined[key] = value
		}
	}
	return joined, nil
}

// plain stores in to, a pointer, what JSON would read back of v, and reports whether that fits.
func plain(v, to any) bool {
	text, err := json.Marshal(v)
	return err == nil && json.Unmarshal(text, to) == nil
}
