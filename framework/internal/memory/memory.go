// Package memory fits a process into the memory of its container.
package memory

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// share of the limit is the heap's; the rest is for what Go does not count, such as the kernel's part of connections.
	share = 0.9

	// roomy is the garbage collector's target in percent. The heap of a service is a few megabytes: to collect it whenever
	// it has doubled, as Go does by default, takes a third of the processor under load.
	roomy = 400
)

// Fit has garbage collected early enough for the process to stay within the memory of its cgroup and, while there is room,
// less often than Go does by default. Without a limit nothing changes. The environment's GOMEMLIMIT and GOGC win. What it
// changes is the whole process: it is for main functions.
func Fit(ctx context.Context, log *slog.Logger) { fit(ctx, memlimit.FromCgroup, log) }

func fit(ctx context.Context, limit memlimit.Provider, log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	bytes, err := memlimit.ApplyRatio(limit, share)()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return
	case err != nil:
		log.WarnContext(ctx, "it is not known how much memory there may be used; GOMEMLIMIT can say it", "error", err)
		return
	}
	debug.SetMemoryLimit(int64(bytes))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(roomy)
	}
	log.DebugContext(ctx, "memory is limited", "bytes", bytes)
}
