package main

import (
	"fmt"
	"log/slog"
	"os"
)

// jsonLog is the log of a command that runs as a server. It is at the level
// LOG_LEVEL, or at the one given if that is not set.
func jsonLog(level slog.Level) (*slog.Logger, error) {
	if text := os.Getenv("LOG_LEVEL"); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return nil, fmt.Errorf("LOG_LEVEL: %w", err)
		}
	}
	return slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: level})), nil
}
