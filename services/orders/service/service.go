// Package service puts the parts of the orders service together.
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
	"github.com/turnstile-go/turnstile/services/orders/internal/server"
	"github.com/turnstile-go/turnstile/services/orders/internal/store"
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
	if cfg.Expiration <= 0 {
		return fmt.Errorf("ORDER_EXPIRATION is %s: an order must hold its ticket for some time", cfg.Expiration)
	}
	pod, err := kube.New(s, cfg.Kube)
	if err != nil {
		return err
	}
	cfg.Events.Lead = pod.Lead("prune")
	db, err := database.New(cfg.Database, event.Migrations(), session.Migrations(), web.Migrations(), store.Migrations())
	if err != nil {
		return err
	}
	outbox := event.NewOutbox(db, s.Name, server.Publishes()...)
	listener := event.NewListener(db, s.Name)
	api := web.NewServer("orders", cfg.HTTP, s.Log, s.Tracer, s.Meter)
	sessions := session.NewVerifier(cfg.Session, db, s.Log)
	sessions.Listen(listener)
	api.Authenticate(sessions)

	srv := server.New(db, outbox, cfg.Expiration)
	srv.Listen(listener)
	srv.Routes(api.API())

	s.Add("kubernetes", pod)
	s.Add("database", db)
	s.Add("sessions", sessions)
	s.Add("events", event.NewClient(cfg.Events, outbox, listener, event.Telemetry{
		Log: s.Log, Tracer: s.Tracer, Meter: s.Meter,
	}, brokers...))
	s.Add("http", api)
	return nil
}
