// Package service puts the parts of the auth service together.
package service

import (
	"fmt"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/broker"
	"github.com/turnstile-go/turnstile/framework/kube"
	"github.com/turnstile-go/turnstile/framework/web"
	"github.com/turnstile-go/turnstile/framework/web/session"
	"github.com/turnstile-go/turnstile/services/auth/internal/server"
	"github.com/turnstile-go/turnstile/services/auth/internal/store"
	"github.com/turnstile-go/turnstile/services/auth/internal/user"
)

// Config is what the service takes from its environment.
type Config = server.Config

// New builds the service on the message brokers that its configuration names.
func New(s *framework.Service, cfg Config) error {
	brokers, err := broker.New(cfg.Broker, s.Log)
	if err != nil {
		return err
	}
	return Assemble(s, cfg, brokers...)
}

// Assemble builds the service on any brokers: one process can hold all services
// on a broker in memory.
func Assemble(s *framework.Service, cfg Config, brokers ...event.Broker) error {
	if cfg.KeyRotation != 0 && cfg.KeyRotation < server.LeastRotation {
		return fmt.Errorf("SESSION_KEY_ROTATION is %s: want at least %s, or 0 for never", cfg.KeyRotation, server.LeastRotation)
	}
	hasher, err := user.NewHasher(cfg.Passwords)
	if err != nil {
		return err
	}
	pod, err := kube.New(s, cfg.Kube)
	if err != nil {
		return err
	}
	cfg.Events.Lead = pod.Lead("prune", "keys")
	db, err := database.New(cfg.Database, event.Migrations(), session.Migrations(), web.Migrations(), store.Migrations())
	if err != nil {
		return err
	}
	outbox := event.NewOutbox(db, s.Name, server.Publishes()...)
	keys := server.NewKeyring(db, s.Log)
	api := web.NewServer("users", cfg.HTTP, s.Log, s.Tracer, s.Meter)
	sessions := session.NewLocalVerifier(cfg.Session, db, s.Log, keys)
	api.Authenticate(sessions)
	api.MapErrors(server.Problem)

	attempts := server.NewAttempts(cfg.Limits)
	srv := server.New(db, outbox, keys, sessions, cfg.Session, hasher, attempts, s.Log)
	srv.Routes(api.API())

	s.Add("kubernetes", pod)
	s.Add("database", db)
	s.Add("passwords", server.NewPasswords(db, hasher))
	s.Add("sessions", sessions)
	events := event.NewClient(cfg.Events, outbox, nil, event.Telemetry{
		Log: s.Log, Tracer: s.Tracer, Meter: s.Meter,
	}, brokers...)
	s.Add("events", events)
	s.Add("keys", keys)
	s.Add("rotation", srv.Rotation(cfg.KeyRotation, events.Lead))
	s.Add("attempts", attempts)
	s.Add("http", api)
	return nil
}
