package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/console"
	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/process"
	"github.com/turnstile-go/turnstile/framework/event/broker"
)

// Broker is the name of the broker among the processes of a System that has one. Where there are several, each has the
// name that BROKER has for it.
const Broker = "broker"

const clusterID = "turnstile" // of a broker of the user's, unless STAN_CLUSTER_ID says another

// server is a broker that a System uses.
type server struct {
	kind, name string
	url        string

	// Written under System.mu.
	supervisor *process.Supervisor // nil if it is the user's
	state      process.State
}

// Brokers returns the names that a System's brokers have with this value of BROKER, or an error if it is none.
func Brokers(use string) ([]string, error) {
	kinds, err := kindsOf(use)
	if len(kinds) == 1 {
		kinds[0] = Broker
	}
	return kinds, err
}

// kindsOf takes a value of BROKER apart.
func kindsOf(use string) (kinds []string, err error) {
	brokers, err := broker.New(broker.Config{Use: use}, nil)
	for _, b := range brokers {
		kinds = append(kinds, b.Name())
	}
	return kinds, err
}

// kinds returns the brokers that services are told to use, all of them or one alone.
func (s surroundings) kinds() (all []string, err error) {
	uses := []string{s.set["BROKER"]}
	if uses[0] == "" {
		uses[0] = s.override["BROKER"]
		for _, service := range s.services {
			if use := s.override[prefixOf(service)+"BROKER"]; use != "" {
				uses = append(uses, use)
			}
		}
	}
	for _, use := range uses {
		kinds, err := kindsOf(use)
		if err != nil {
			return nil, err
		}
		for _, kind := range kinds {
			if !slices.Contains(all, kind) {
				all = append(all, kind)
			}
		}
	}
	return all, nil
}

// chooseBrokers finds out which brokers there are to be.
func (s *System) chooseBrokers() error {
	kinds, err := s.around.kinds()
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		name := kind
		if len(kinds) == 1 {
			name = Broker
		}
		s.notify(func() { s.brokers = append(s.brokers, &server{kind: kind, name: name}) })
	}
	return nil
}

// startBrokers starts each broker in a process of its own, unless the user has one.
func (s *System) startBrokers(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // they stop after the services, not with them
	var running sync.WaitGroup
	stop = func() { cancel(); running.Wait() }
	for _, b := range s.brokers {
		if err := s.prepareBroker(b); err != nil {
			stop()
			return nil, err
		}
		if b.supervisor != nil {
			running.Go(func() { b.supervisor.Run(ctx) })
		}
	}
	return stop, nil
}

// prepareBroker finds an address for a broker, and how to run it there if it is not the user's.
func (s *System) prepareBroker(b *server) error {
	variable, url := "NATS_URL", &s.around.nats
	if b.kind == "jetstream" {
		variable, url = "JETSTREAM_URL", &s.around.jetstream
	}
	if b.url = s.around.override[variable]; b.url != "" {
		*url = b.url
		s.o.Console.Say(console.Plain, "using the %s at %s (%s)", b.name, b.url, variable)
		return nil
	}
	// The port is anyone's while the broker is down after a crash. If another workspace's broker has it then, a name
	// that is this workspace's alone keeps the services from taking that for their own: it is the cluster id of NATS
	// Streaming, and the token that JetStream wants to see.
	port, err := freePort("127.0.0.1")
	if err != nil {
		return fmt.Errorf("find a port for the %s: %w", b.name, err)
	}
	own, err := ownName(s.o.State)
	if err != nil {
		return err
	}
	args := append(slices.Clone(s.o.Broker[1:]), "--kind", b.kind, "--port", port)
	token := ""
	switch b.kind {
	case "stan":
		if s.around.cluster = s.around.override["STAN_CLUSTER_ID"]; s.around.cluster == "" {
			s.around.cluster = own
		}
		b.url = "nats://127.0.0.1:" + port
		args = append(args, "--dir", filepath.Join(s.o.State, "nats"), "--cluster-id", s.around.cluster)
	case "jetstream":
		token = own
		b.url = "nats://" + own + "@127.0.0.1:" + port
		args = append(args, "--dir", filepath.Join(s.o.State, "jetstream"))
	}
	*url = b.url
	command := process.Command{
		Path: s.o.Broker[0], Args: args,
		Dir:       s.o.Workspace.Root,
		Env:       process.Environ(s.o.Environ, []string{"READY_FILE=" + s.around.readyFile(b.name), "BROKER_TOKEN=" + token}),
		ReadyFile: s.around.readyFile(b.name),
		Line:      s.line(b.name),
	}
	up, since := 0, time.Now()
	supervisor := &process.Supervisor{
		Command: func() process.Command { return command },
		Grace:   brokerGrace, Backoff: backoffMin, BackoffMax: backoffMax,
		Observe: func(state process.State) {
			switch state.Phase {
			case process.Crashed:
				since = time.Now()
			case process.Up:
				up++
			}
			s.report(b.name, state, up, time.Since(since))
			s.notify(func() { b.state = state })
		},
	}
	s.notify(func() { b.supervisor = supervisor })
	return nil
}

// ownName returns a name that is this workspace's alone. It is made up once and kept in the folder for state: the files
// of NATS Streaming can be used under no other.
func ownName(state string) (string, error) {
	file := filepath.Join(state, "cluster")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte(clusterID + "-" + strings.ToLower(rand.Text()[:8]) + "\n")
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("make up a name for the brokers: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Brokers returns the names of the brokers among the processes. Call it from Run's body.
func (s *System) Brokers() []string {
	var names []string
	for _, b := range s.brokers {
		names = append(names, b.name)
	}
	return names
}
