package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
	"github.com/turnstile-go/turnstile/services/payments/internal/store"
)

// Whatever moves money is done in the same three steps. What is to be done is
// committed first, so that it is not forgotten. Then the provider is asked,
// outside of any transaction, with a key that follows from what was committed.
// Then the answer is committed together with the event. After a crash anywhere
// the last two are done again: the provider answers the same, and of several
// that try one writes it down.

// settle carries on with a payment that is pending, or whose money is to go back.
func (s *Server) settle(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	if p.Return == payment.Due {
		return s.refund(ctx, p)
	}
	return s.charge(ctx, p, nil)
}

// charge asks the provider for the money of a payment, unless it is known whether
// that was taken, and writes down the answer. It returns the payment as it is
// then. What captured does, unless it is nil, is done in the same transaction.
//
// The caller's departure does not stop it, because the provider's answer
// counts whether or not anybody waits for it.
func (s *Server) charge(
	ctx context.Context, p payment.Payment, captured func(context.Context, *database.Tx) error,
) (payment.Payment, error) {
	if p.Status == payment.Pending {
		var id string
		err := s.ask(ctx, func(ctx context.Context) (err error) {
			id, err = s.provider.Charge(ctx, p.Charge())
			return err
		})
		if declined, ok := errors.AsType[*payment.DeclinedError](err); ok {
			if declined.Err != nil {
				s.log.LogAttrs(ctx, slog.LevelWarn, "the payment provider refuses a payment",
					slog.String("payment", p.ID), slog.String("order", p.OrderID), slog.Any("error", declined.Err))
			}
			p = p.Decline(declined.Reason)
		} else if err != nil {
			return p, &unansweredError{err}
		} else {
			p = p.Capture(id)
		}
	}
	return s.write(ctx, p.ID, func(ctx context.Context, tx *database.Tx) (payment.Payment, error) {
		now, err := s.settled(ctx, tx, p)
		if err == nil && now.Status == payment.Captured && captured != nil {
			err = captured(ctx, tx)
		}
		return now, err
	})
}

// unansweredError says that it is not known what becomes of a charge.
type unansweredError struct{ err error }

func (e *unansweredError) Error() string { return "the provider did not answer: " + e.err.Error() }
func (e *unansweredError) Unwrap() error { return e.err }

// refund asks the provider to give the money back, and writes down that it has,
// or never will. It returns the payment as it is then.
func (s *Server) refund(ctx context.Context, p payment.Payment) (payment.Payment, error) {
	err := s.ask(ctx, func(ctx context.Context) error { return s.provider.Refund(ctx, p.Refund()) })
	failed, ok := errors.AsType[*payment.NotReturnedError](err)
	if err != nil && !ok {
		return payment.Payment{}, fmt.Errorf("give the money of payment %s of order %s back: %w", p.ID, p.OrderID, err)
	}
	return s.write(ctx, p.ID, func(ctx context.Context, tx *database.Tx) (payment.Payment, error) {
		if failed != nil {
			return s.notReturned(ctx, tx, p.ID, failed.Reason)
		}
		return s.returned(ctx, tx, p.ID, store.Returned)
	})
}

// ask gives the provider its time to answer.
func (s *Server) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	return question(ctx)
}

// write runs a transaction that writes an answer down, and that nobody waits for
// either. It returns the payment that the transaction returned.
func (s *Server) write(
	ctx context.Context, id string, do func(ctx context.Context, tx *database.Tx) (payment.Payment, error),
) (now payment.Payment, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	err = s.db.InTx(ctx, func(tx *database.Tx) (err error) {
		now, err = do(ctx, tx)
		return err
	})
	if err != nil {
		return payment.Payment{}, fmt.Errorf("write down what became of payment %s: %w", id, err)
	}
	return now, nil
}

// settled writes down that a payment is captured or declined, unless that is
// known, and tells everybody of money. It returns the payment as it is then.
func (s *Server) settled(ctx context.Context, tx *database.Tx, p payment.Payment) (payment.Payment, error) {
	now, changed, err := store.Settle(ctx, tx, p)
	switch {
	case err != nil:
		return now, err
	case changed && now.Status == payment.Captured:
		return now, s.outbox.Publish(ctx, tx, payments.Captured{
			ID: now.ID, OrderID: now.OrderID, Amount: now.Amount, Currency: now.Currency,
		})
	case now.Status == payment.Declined && p.Status == payment.Captured && now.Return == payment.NoReturn:
		// We gave the payment up, and the provider has taken the money all the
		// same. The order may be paid by another payment by now.
		return now, s.giveBack(ctx, tx, p.ID, p.ChargeID)
	}
	return now, nil
}

// giveBack notes that the money of a charge is to go back, and has the provider
// asked as soon as that is committed.
func (s *Server) giveBack(ctx context.Context, tx *database.Tx, id, charge string) error {
	p, changed, err := store.GiveBack(ctx, tx, id, charge, time.Now().Add(s.timeout))
	if err != nil || !changed {
		return err
	}
	tx.AfterCommit(func() {
		select {
		case s.owed <- p:
		default: // there are so many that it is one for Recovery
		}
	})
	return nil
}

// returned writes down, by one of the store's functions, that money has gone back,
// unless that is known, and tells everybody. It returns the payment as it is then.
func (s *Server) returned(
	ctx context.Context, tx *database.Tx, id string,
	note func(context.Context, *database.Tx, string) (now payment.Payment, changed bool, err error),
) (payment.Payment, error) {
	now, changed, err := note(ctx, tx, id)
	if err != nil || !changed {
		return now, err
	}
	return now, s.outbox.Publish(ctx, tx, payments.Refunded{ID: now.ID, OrderID: now.OrderID})
}

// notReturned writes down that a refund has failed, unless that is known. The
// provider is not asked any more: somebody may be giving the money back in
// another way. It returns the payment as it is then.
func (s *Server) notReturned(ctx context.Context, tx *database.Tx, id, reason string) (payment.Payment, error) {
	now, changed, err := store.NotReturned(ctx, tx, id, reason)
	if err == nil && changed {
		tx.AfterCommit(func() {
			s.log.LogAttrs(ctx, slog.LevelError, "a refund failed: somebody has to give the money back",
				slog.String("payment", now.ID), slog.String("order", now.OrderID), slog.String("reason", reason))
		})
	}
	return now, err
}
