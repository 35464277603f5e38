// Package jetstreamserver runs a NATS server with JetStream inside the process:
// the broker of `turnstile dev`, of the demo, of tests, and, as one of several, of
// a Kubernetes cluster.
//
// A server that is killed loses nothing that it acknowledged: the operating
// system has it. When the power fails, what JetStream has not synced is lost; its
// own default is to sync every two minutes. This one syncs every ten seconds,
// because the relay sends the last thirty seconds again when it finds its session
// lost, which makes up for that. [Options].SyncAlways syncs before it
// acknowledges: that publishes some twenty times fewer messages in a second.
package jetstreamserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/turnstile-go/turnstile/framework/internal/natsserver"
)

// Options say what to run. The zero value is a server on a free port that
// forgets its messages at the end.
type Options struct {
	Dir        string            // keeps messages there, made if missing; in a temporary folder if empty
	Host       string            // to listen on; 127.0.0.1 if empty
	Port       int               // for clients; 0 picks a free one
	Token      string            // clients must have it in their URL, as in nats://token@127.0.0.1:4222; none if empty
	SyncAlways bool              // sync every message to disk before it is acknowledged, not all every ten seconds
	Name       string            // of this server among Peers
	Peers      map[string]string // of a cluster: where its servers, this one included, reach one another, as in host:6222, by name
	Log        *slog.Logger      // nil discards
}

// Server is a running NATS server with JetStream.
type Server struct {
	nats     *natsserver.Server
	caughtUp atomic.Bool
	once     sync.Once
	leave    func()
}

// Start runs a server and returns when clients can connect. It changes nothing
// about the process: no signal handlers, no output. In a cluster it does not wait
// for the other servers.
//
// One server at a time may use a directory, and a port.
func Start(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	leave, err := enter(&o.Dir)
	if err != nil {
		return nil, fmt.Errorf("start the JetStream server in %s: %w", o.Dir, err)
	}
	shared := natsserver.Options{Host: o.Host, Port: o.Port, Token: o.Token, Name: o.Name, Peers: o.Peers, Log: o.Log}
	s, err := natsserver.Start(shared, func(no *server.Options) {
		no.JetStream = true
		no.StoreDir = o.Dir
		no.DisableJetStreamBanner = true
		no.SyncInterval = 10 * time.Second
		no.SyncAlways = o.SyncAlways
	})
	if err != nil {
		leave()
		return nil, fmt.Errorf("start the JetStream server in %s: %w", o.Dir, err)
	}
	o.Log.Info("JetStream server started", "address", s.Addr().String(), "name", s.Name(), "dir", o.Dir, "sync_always", o.SyncAlways, "servers", max(1, len(o.Peers)))
	return &Server{nats: s, leave: leave}, nil
}

// URL is the address for clients on this machine, such as nats://127.0.0.1:4222,
// with the token if there is one.
func (s *Server) URL() string { return s.nats.URL() }

// Ready is nil if the server is of use to clients. One of a cluster has once had
// everything that the others have, and knows who leads them.
func (s *Server) Ready(context.Context) error {
	// Later, a stream that is behind or has no leader is no reason to cut clients off: they can use the others.
	health := s.nats.Healthz(&server.HealthzOptions{JSMetaOnly: s.caughtUp.Load()})
	if health.Error != "" {
		return errors.New(health.Error)
	}
	if health.StatusCode != 200 {
		return fmt.Errorf("JetStream is %s", health.Status)
	}
	s.caughtUp.Store(true)
	return nil
}

// Leads reports whether the server leads those of its cluster: it places streams,
// each of which has a leader of its own. One on its own does.
func (s *Server) Leads() bool { return !s.nats.JetStreamIsClustered() || s.nats.JetStreamIsLeader() }

// Shutdown ends the server and returns when its files are closed and its
// directory may be used again. One of a cluster takes some seconds to hand over
// what it leads, and to send its clients to the others. A second call does nothing.
func (s *Server) Shutdown() {
	s.once.Do(func() {
		s.nats.Shutdown()
		s.leave()
	})
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
