package framework

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/turnstile-go/turnstile/framework/internal/config"
)

// settings is the part of the configuration that may change while the service runs.
type settings struct {
	started map[string]string // what the service was started with, defaults included

	mu       sync.Mutex
	adjusted map[string]string // what differs from that
}

// Adjust changes settings of the running service: changed has, by variable, all that is to differ from what the
// service was started with. What was adjusted before and is not in there goes back; an empty value is no value. A
// variable that cannot change, or whose value is of no use, is left as it is, and the error says so; the others
// take effect. Which may change, describe says.
func (s *Service) Adjust(changed map[string]string) error {
	s.settings.mu.Lock()
	defer s.settings.mu.Unlock()
	may := s.adjusters()
	wanted := maps.Clone(changed)
	maps.DeleteFunc(wanted, func(_, value string) bool { return value == "" })
	var refused []error
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if may[name] == nil {
			refused = append(refused, fmt.Errorf("%s cannot be changed while the service runs: what can is %s",
				name, strings.Join(slices.Sorted(maps.Keys(may)), ", ")))
			delete(wanted, name)
		}
	}
	if s.settings.adjusted == nil {
		s.settings.adjusted = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(may)) {
		before, after := s.settings.adjusted[name], wanted[name]
		if before == after {
			continue
		}
		value := cmp.Or(after, s.settings.started[name])
		if err := guard(func() error { return may[name](value) }); err != nil {
			refused = append(refused, fmt.Errorf("%s is %q, %w; it stays %q", name, value, err, cmp.Or(before, s.settings.started[name])))
			continue
		}
		if after == "" {
			delete(s.settings.adjusted, name)
		} else {
			s.settings.adjusted[name] = after
		}
		s.Log.Info("setting adjusted", "variable", name, "value", value)
	}
	return errors.Join(refused...)
}

// adjusters has what may change, by variable.
func (s *Service) adjusters() map[string]func(string) error {
	all := map[string]func(string) error{"LOG_LEVEL": func(value string) error {
		var level logLevel
		if err := level.UnmarshalText([]byte(value)); err != nil {
			return err
		}
		s.LogLevel.Set(level.Level)
		return nil
	}}
	for _, p := range s.parts {
		a, ok := p.Part.(adjustable)
		if !ok {
			continue
		}
		for name, set := range a.Adjust() {
			if all[name] != nil {
				panic(fmt.Sprintf("framework: part %q of service %q is the second that adjusts %s", p.name, s.Name, name))
			}
			all[name] = set
		}
	}
	return all
}

// describeAdjustable marks the variables that may change while the service runs.
func (s *Service) describeAdjustable(variables []config.Variable) {
	may := s.adjusters()
	for i := range variables {
		variables[i].Adjustable = may[variables[i].Name] != nil
	}
}

// checkAdjustable has what may change while the service runs judge what it is started with: it may be pickier than
// the type of the variable.
func (s *Service) checkAdjustable() error {
	var refused []error
	may := s.adjusters()
	for _, name := range slices.Sorted(maps.Keys(may)) {
		if value := s.settings.started[name]; value != "" {
			if err := guard(func() error { return may[name](value) }); err != nil {
				refused = append(refused, fmt.Errorf("%s is %q, %w", name, value, err))
			}
		}
	}
	return errors.Join(refused...)
}
