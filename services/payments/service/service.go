// Package service puts the parts of the payments service together.
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
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/sandbox"
	"github.com/turnstile-go/turnstile/services/payments/internal/server"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe"
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
	if cfg.Recovery <= 0 {
		return fmt.Errorf("PAYMENT_RECOVERY is %s: pending payments must be looked for now and then", cfg.Recovery)
	}
	if cfg.ProviderTimeout <= 0 {
		return fmt.Errorf("PAYMENT_TIMEOUT is %s: the payment provider must have time to answer", cfg.ProviderTimeout)
	}
	pod, err := kube.New(s, cfg.Kube)
	if err != nil {
		return err
	}
	cfg.Events.Lead = pod.Lead("prune", "recovery")
	db, err := database.New(cfg.Database, event.Migrations(), session.Migrations(), web.Migrations(), store.Migrations(), sandbox.Migrations())
	if err != nil {
		return err
	}
	outbox := event.NewOutbox(db, s.Name, server.Publishes()...)
	listener := event.NewListener(db, s.Name)
	api := web.NewServer("payments", cfg.HTTP, s.Log, s.Tracer, s.Meter)
	sessions := session.NewVerifier(cfg.Session, db, s.Log)
	sessions.Listen(listener)
	api.Authenticate(sessions)

	var provider payment.Provider
	var account *stripe.Provider
	switch cfg.Provider {
	case "sandbox":
		provider = sandbox.New(db, cfg.SandboxDelay)
	case "stripe":
		if account, err = stripe.New(cfg.Stripe); err != nil {
			return err
		}
		provider = account
	default:
		return fmt.Errorf("PAYMENT_PROVIDER is %q: it must be sandbox or stripe", cfg.Provider)
	}
	srv := server.New(db, outbox, provider, cfg.ProviderTimeout, s.Log)
	if err := srv.Measure(s.Meter); err != nil {
		return err
	}
	srv.Listen(listener)
	srv.Routes(api.API())
	if account != nil {
		srv.StripeWebhook(api.API(), account)
		s.Add("stripe", account)
	}

	s.Add("kubernetes", pod)
	s.Add("database", db)
	s.Add("sessions", sessions)
	events := event.NewClient(cfg.Events, outbox, listener, event.Telemetry{
		Log: s.Log, Tracer: s.Tracer, Meter: s.Meter,
	}, brokers...)
	s.Add("events", events)
	s.Add("recovery", srv.Recovery(cfg.Recovery, events.Lead))
	s.Add("http", api)
	return nil
}
