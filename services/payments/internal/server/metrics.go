package server

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

const scope = "github.com/turnstile-go/turnstile/services/payments"

// Measure has meter tell, whenever somebody asks, of the payments about which the
// provider has not said its last word.
func (s *Server) Measure(meter metric.MeterProvider) error {
	m := meter.Meter(scope)
	number, err := m.Int64ObservableGauge("turnstile.payments.unsettled", metric.WithUnit("{payment}"),
		metric.WithDescription("Payments that are pending, or whose money is to go back (refund), or whose refund failed (refund_failed)."))
	if err != nil {
		return fmt.Errorf("payments: %w", err)
	}
	age, err := m.Float64ObservableGauge("turnstile.payments.unsettled.age", metric.WithUnit("s"),
		metric.WithDescription("How long ago the oldest of them was begun; 0 if there is none."))
	if err != nil {
		return fmt.Errorf("payments: %w", err)
	}
	_, err = m.RegisterCallback(func(ctx context.Context, observer metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		all, err := store.Unfinished(ctx, s.db)
		if err != nil {
			return fmt.Errorf("payments: measure: %w", err)
		}
		for state, b := range map[string]store.Backlog{"pending": all.Pending, "refund": all.Due, "refund_failed": all.Failed} {
			with := metric.WithAttributes(attribute.String("state", state))
			observer.ObserveInt64(number, b.Payments, with)
			seconds := 0.0
			if b.Payments > 0 {
				seconds = max(0, time.Since(b.Oldest).Seconds())
			}
			observer.ObserveFloat64(age, seconds, with)
		}
		return nil
	}, number, age)
	if err != nil {
		return fmt.Errorf("payments: %w", err)
	}
	return nil
}
