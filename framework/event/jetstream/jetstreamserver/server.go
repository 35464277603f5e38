// Package jetstreamserver runs a NATS server with JetStream inside the process:
// the broker of `turnstile dev`, of the demo and of tests.
//
// A server that is killed loses nothing that it acknowledged: the operating
// system has it. When the power fails, what JetStream has not synced is lost; its
// own default is to sync every two minutes. This one syncs every ten seconds,
// because the relay sends the last thirty seconds again when it finds its session
// lost, which makes up for that. [Options].SyncAlways syncs before it
// acknowledges: that publishes some twenty times fewer messages in a second.
package jetstreamserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/turnstile-go/turnstile/framework/internal/natsserver"
)

const startWait = 30 * time.Second // for recovering what is stored

// Options say what to run. The zero value is a server on a free port that
// forgets its messages at the end.
type Options struct {
	Dir        string       // keeps messages there, made if missing; in a temporary folder if empty
	Port       int          // on 127.0.0.1; 0 picks a free one
	Token      string       // clients must have it in their URL, as in nats://token@127.0.0.1:4222; none if empty
	SyncAlways bool         // sync every message to disk before it is acknowledged, not all every ten seconds
	Log        *slog.Logger // nil discards
}

// Server is a running NATS server with JetStream.
type Server struct {
	url  string
	once sync.Once
	stop func()
}

// Start runs a server and returns when clients can connect. It changes nothing
// about the process: no signal handlers, no output.
//
// One server at a time may use a directory, and a port.
func Start(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := natsserver.CheckPort(o.Port); err != nil {
		return nil, fmt.Errorf("start the JetStream server: %w", err)
	}
	leave, err := enter(&o.Dir)
	if err != nil {
		return nil, fmt.Errorf("start the JetStream server in %s: %w", o.Dir, err)
	}
	s, err := start(o)
	if err != nil {
		leave()
		return nil, fmt.Errorf("start the JetStream server in %s: %w", o.Dir, err)
	}
	o.Log.Info("JetStream server started", "url", s.ClientURL(), "dir", o.Dir, "sync_always", o.SyncAlways)
	at := s.ClientURL()
	if o.Token != "" {
		at = strings.Replace(at, "//", "//"+url.PathEscape(o.Token)+"@", 1)
	}
	return &Server{url: at, stop: func() { end(s); leave() }}, nil
}

// URL is the address for clients, such as nats://127.0.0.1:4222, with the token
// if there is one.
func (s *Server) URL() string { return s.url }

// Shutdown ends the server and returns when its files are closed and its
// directory may be used again. A second call does nothing.
func (s *Server) Shutdown() { s.once.Do(s.stop) }

func start(o Options) (*server.Server, error) {
	port := o.Port
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "turnstile", Host: natsserver.Host, Port: port, NoSigs: true, NoLog: true,
		Authorization: o.Token,
		JetStream:     true, StoreDir: o.Dir, DisableJetStreamBanner: true,
		SyncInterval: 10 * time.Second, SyncAlways: o.SyncAlways,
	})
	if err != nil {
		return nil, err
	}
	log := &logger{Logger: natsserver.Logger{Log: o.Log}}
	s.SetLoggerV2(log, false, false, false)
	s.Start() // it says to its log only that it has failed
	for late := time.Now().Add(startWait); !s.ReadyForConnections(100 * time.Millisecond); {
		fatal := log.fatal.Load()
		switch {
		case fatal != nil:
			err = errors.New(*fatal)
		case time.Now().After(late):
			err = fmt.Errorf("it is not ready after %v", startWait)
		default:
			continue
		}
		end(s)
		return nil, err
	}
	return s, nil
}

func end(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// enter takes possession of a directory, which is made if there is none, and
// returns how to give it up.
func enter(dir *string) (leave func(), err error) {
	if *dir == "" {
		if *dir, err = os.MkdirTemp("", "turnstile-jetstream-"); err != nil {
			return nil, err
		}
		return func() { _ = os.RemoveAll(*dir) }, nil
	}
	return natsserver.LockDir(*dir)
}

// logger remembers why the server has failed to start.
type logger struct {
	natsserver.Logger
	fatal atomic.Pointer[string] // the last message of that kind
}

func (l *logger) Fatalf(format string, v ...any) {
	l.Logger.Fatalf(format, v...)
	message := fmt.Sprintf(format, v...)
	l.fatal.Store(&message)
}
