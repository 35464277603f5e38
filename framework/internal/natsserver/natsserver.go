// Package natsserver is what the NATS servers that run inside a process share:
// a port and a directory that are theirs alone, how they find one another in a
// cluster, how they start and end, and where their log goes.
package natsserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// checkPort finds a port that is in use. The servers themselves would only log
// it. Zero stands for a free port.
func checkPort(host string, port int) error {
	if port == 0 {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is in use: stop what listens there, or choose another port", port)
	}
	if err != nil {
		return err
	}
	return l.Close()
}

var errLocked = errors.New("another server is using the directory: stop it, or choose another directory")

// LockDir makes the directory unless it is there, and keeps other servers out
// of it, of this process and of others. That ends with unlock, or with the
// process however that ends.
func LockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	return lock(filepath.Join(dir, "turnstile.lock"))
}

// Logger passes a server's log on, its everyday remarks as debug messages.
type Logger struct {
	Log    *slog.Logger
	Prefix string // taken off the messages
}

// Noticef logs an everyday remark.
func (l Logger) Noticef(format string, v ...any) { l.Log.Debug(l.message(format, v)) }

// Warnf logs a warning.
func (l Logger) Warnf(format string, v ...any) { l.Log.Warn(l.message(format, v)) }

// Errorf logs an error.
func (l Logger) Errorf(format string, v ...any) { l.Log.Error(l.message(format, v)) }

// Fatalf logs an error that keeps the server from running.
func (l Logger) Fatalf(format string, v ...any) { l.Log.Error(l.message(format, v)) }

// Debugf logs what the server does.
func (l Logger) Debugf(format string, v ...any) { l.Log.Debug(l.message(format, v)) }

// Tracef discards: it would be every message.
func (l Logger) Tracef(string, ...any) {}

func (l Logger) message(format string, v []any) string {
	return strings.TrimPrefix(fmt.Sprintf(format, v...), l.Prefix)
}
