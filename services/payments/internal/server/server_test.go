package server

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/sandbox"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// forgetful is a provider that takes the money, but does not get its first
// answers through.
type forgetful struct {
	payment.Provider
	answers atomic.Int32 // lost so far
	lose    int32
}

func (f *forgetful) Charge(ctx context.Context, c payment.Charge) (string, error) {
	id, err := f.Provider.Charge(ctx, c)
	if f.answers.Add(1) <= f.lose {
		return "", errors.New("connection reset")
	}
	return id, err
}

// TestSettle: whatever became of the first attempt, and whoever tries at once,
// the payment is captured by one charge and told of once.
func TestSettle(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		outbox := event.NewOutbox(db, "payments", Publishes()...)
		provider := &forgetful{Provider: sandbox.New(db, 0), lose: 2}
		s := New(db, outbox, provider, 10*time.Second, slog.New(slog.DiscardHandler))
		p, err := payment.Begin("p", payment.Order{
			ID: "o", UserID: "u", Price: 1999, Status: payment.OrderCreated, ExpiresAt: time.Now().Add(time.Hour),
		}, sandbox.TokenVisa, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := db.InTx(t.Context(), func(tx *database.Tx) error { return store.Insert(t.Context(), tx, p, time.Now()) }); err != nil {
			t.Fatal(err)
		}

		for range provider.lose {
			if _, err := s.charge(t.Context(), p, nil); err == nil {
				t.Error("settled without an answer")
			}
		}
		var group errgroup.Group
		charges := make([]string, 10)
		for i := range charges {
			group.Go(func() error {
				settled, err := s.charge(context.Background(), p, nil)
				if err == nil && settled.Status != payment.Captured {
					err = errors.New("the payment is " + string(settled.Status))
				}
				charges[i] = settled.ChargeID
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, id := range charges {
			if id == "" || id != charges[0] {
				t.Errorf("charges %q", charges)
			}
		}
		var n int
		if err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sandbox_charges`).Scan(&n); err != nil || n != 1 {
			t.Errorf("%d charges, %v", n, err)
		}
		if told := drain(t, db, outbox); told != 1 {
			t.Errorf("told of %d times", told)
		}
	}, event.Migrations(), store.Migrations(), sandbox.Migrations())
}

// drain sends what is in the outbox and returns how many events that were.
func drain(t *testing.T, db *database.DB, outbox *event.Outbox) int {
	t.Helper()
	broker := eventtest.NewBroker(eventtest.Faults{})
	defer broker.Close()
	heard := make(chan struct{}, 100)
	l := event.NewListener(db, "test")
	event.Handle(l, func(_ context.Context, tx *database.Tx, _ *event.Message[payments.Captured]) error {
		tx.AfterCommit(func() { heard <- struct{}{} })
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- event.NewClient(event.Config{}, outbox, l, event.Telemetry{}, broker).Run(ctx) }()
	select {
	case <-heard:
	case <-time.After(20 * time.Second):
		t.Error("nothing was sent")
	}
	cancel() // which sends the rest
	if err := <-done; err != nil {
		t.Error(err)
	}
	return len(broker.Stored(payments.Stream))
}
