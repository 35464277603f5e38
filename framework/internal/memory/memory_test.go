package memory

import (
	"errors"
	"log/slog"
	"math"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// TestFit is of what the process is set to afterwards, from nothing set.
func TestFit(t *testing.T) {
	const unset = math.MaxInt64
	for name, test := range map[string]struct {
		limit       memlimit.Provider
		environment map[string]string
		bytes       int64
		percent     int
	}{
		"a container":                   {memlimit.Limit(100 << 20), nil, 90 << 20, roomy},
		"no limit":                      {no(memlimit.ErrNoLimit), nil, unset, 100},
		"no cgroup":                     {no(memlimit.ErrNoCgroup), nil, unset, 100},
		"another operating system":      {no(memlimit.ErrCgroupsNotSupported), nil, unset, 100},
		"nobody knows":                  {no(errors.New("cannot read memory.max")), nil, unset, 100},
		"the environment has the limit": {memlimit.Limit(100 << 20), map[string]string{"GOMEMLIMIT": "50MiB"}, unset, 100},
		"the environment has the rest":  {memlimit.Limit(100 << 20), map[string]string{"GOGC": "50"}, 90 << 20, 100},
	} {
		t.Run(name, func(t *testing.T) {
			bytes, percent := debug.SetMemoryLimit(unset), debug.SetGCPercent(100)
			defer debug.SetMemoryLimit(bytes)
			defer debug.SetGCPercent(percent)
			for _, name := range []string{"GOMEMLIMIT", "GOGC"} {
				t.Setenv(name, test.environment[name])
			}
			fit(t.Context(), test.limit, slog.New(slog.DiscardHandler))
			if got := debug.SetMemoryLimit(-1); got != test.bytes {
				t.Errorf("the limit is %d, want %d", got, test.bytes)
			}
			if got := debug.SetGCPercent(100); got != test.percent {
				t.Errorf("the target is %d %%, want %d", got, test.percent)
			}
		})
	}
}

func no(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
