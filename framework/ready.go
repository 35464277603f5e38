package framework

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	readyPollMin  = 2 * time.Millisecond // until the service is first ready
	readyPollMax  = 100 * time.Millisecond
	watchEvery    = time.Second / 2 // afterwards, to log what comes and goes
	complainAfter = 5 * time.Second // about not being ready
	complainEvery = 30 * time.Second
)

// watch tells that the service is ready, and afterwards whenever that changes.
func (l *lifecycle) watch(ctx context.Context) {
	log := l.service.Log
	complain := time.Now().Add(complainAfter)
	for pause := readyPollMin; ; pause = min(2*pause, readyPollMax) {
		r := l.health.report()
		if r.Status == statusReady {
			break
		}
		if now := time.Now(); now.After(complain) {
			complain = now.Add(complainEvery)
			log.WarnContext(ctx, "service is not ready yet", "failing", r.failing())
		}
		if !sleep(ctx, pause) {
			return
		}
	}
	l.health.ready.Store(true)
	l.announce(ctx)
	for last := statusReady; sleep(ctx, watchEvery); {
		r := l.health.report()
		if r.Status == last || r.Status == statusDraining {
			continue
		}
		last = r.Status
		if last == statusReady {
			log.InfoContext(ctx, "service is ready again")
		} else {
			log.WarnContext(ctx, "service is "+string(last), "failing", r.failing())
		}
	}
}

// announce tells that the service is ready, and where.
func (l *lifecycle) announce(ctx context.Context) {
	log := l.service.Log
	addresses := map[string]string{}
	attrs := []any{}
	for _, p := range l.service.parts {
		if a, ok := p.Part.(addressed); ok {
			addresses[p.name] = dialable(a.Addr())
			attrs = append(attrs, p.name, addresses[p.name])
		}
	}
	attrs = append(attrs, "admin", l.adminAddr, "after", time.Since(l.began))
	if l.process.ReadyFile != "" {
		if err := writeReadyFile(l.process.ReadyFile, l.service.Name, l.adminAddr, addresses); err != nil {
			log.ErrorContext(ctx, "READY_FILE is not written", "error", err)
		}
	}
	log.InfoContext(ctx, "service ready", attrs...)
	if l.options.Ready != nil {
		addresses["admin"] = l.adminAddr
		l.options.Ready(addresses)
	}
}

// writeReadyFile writes the file in one step: who sees it sees all of it.
func writeReadyFile(path, name, admin string, addresses map[string]string) error {
	text, err := json.Marshal(map[string]any{"name": name, "admin": admin, "addresses": addresses, "pid": os.Getpid()})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".ready-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// dialable is an address that a client on this machine can use for what listens on all interfaces.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// sleep reports false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
