// Package providertest is what every payment.Provider must do, as tests.
package providertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/services/payments/internal/payment"
)

// Subject is a provider with empty books, and a look into these.
type Subject struct {
	Provider payment.Provider
	Taken    func() (ids []string)             // the charges for which money was taken
	Returned func(charge string) (refunds int) // how often its money was given back

	// Tokens: of a card that is good, that is declined, that is good but whose
	// first answer nobody waits for, and of none.
	Good, Declined, Late, Unknown string
	// Reason is why Declined is.
	Reason string
}

// Run tests the providers that start returns, each test with one of its own.
func Run(t *testing.T, start func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"charge", charge},
		{"asked again", again},
		{"another charge with the key", keyUsed},
		{"declined", declined},
		{"late answer", late},
		{"at once", atOnce},
		{"refund", refund},
		{"refund at once", refundAtOnce},
		{"refund of nothing", refundOfNothing},
		{"nobody waits", nobody},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, start(t)) })
	}
}

// Charge is a charge of 19.99 for a payment.
func Charge(id, token string) payment.Charge {
	return payment.Charge{
		Key: "payment-" + id, PaymentID: id, OrderID: "o-" + id,
		Amount: 1999, Currency: payment.Currency, Token: token, Begun: time.Now(),
	}
}

// Refund is the refund of a charge that [Charge] asked for.
func Refund(id, charge string) payment.Refund {
	return payment.Refund{Key: "refund-" + id, PaymentID: id, ChargeID: charge, Amount: 1999}
}

func (s Subject) charge(t *testing.T, c payment.Charge) string {
	t.Helper()
	id, err := s.Provider.Charge(t.Context(), c)
	if err != nil || id == "" {
		t.Fatalf("charge %s: %q, %v", c.Key, id, err)
	}
	return id
}

func (s Subject) taken(t *testing.T, want ...string) {
	t.Helper()
	got := slices.Sorted(slices.Values(s.Taken()))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("money was taken by %q, want %q", got, want)
	}
}

func charge(t *testing.T, s Subject) {
	a, b := s.charge(t, Charge("a", s.Good)), s.charge(t, Charge("b", s.Good))
	s.taken(t, a, b)
}

func again(t *testing.T, s Subject) {
	first := s.charge(t, Charge("a", s.Good))
	for range 3 {
		if id := s.charge(t, Charge("a", s.Good)); id != first {
			t.Errorf("asked again: %s, want %s", id, first)
		}
	}
	s.taken(t, first)
}

func keyUsed(t *testing.T, s Subject) {
	first := s.charge(t, Charge("a", s.Good))
	amount, token := Charge("a", s.Good), Charge("a", s.Declined)
	amount.Amount++
	for _, c := range []payment.Charge{amount, token} {
		if id, err := s.Provider.Charge(t.Context(), c); !errors.Is(err, payment.ErrKeyUsed) {
			t.Errorf("%+v: %q, %v; want %v", c, id, err, payment.ErrKeyUsed)
		}
	}
	s.taken(t, first)
}

func declined(t *testing.T, s Subject) {
	for token, reason := range map[string]string{s.Declined: s.Reason, s.Unknown: "The payment token is unknown"} {
		for range 2 {
			id, err := s.Provider.Charge(t.Context(), Charge("p-"+token, token))
			if d, ok := errors.AsType[*payment.DeclinedError](err); !ok || d.Reason != reason {
				t.Errorf("%s: %q, %v; want it to be declined: %s", token, id, err, reason)
			}
		}
	}
	s.taken(t)
}

// late: the money is taken although the answer comes too late, and to ask again
// tells.
func late(t *testing.T, s Subject) {
	ctx, leave := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := s.Provider.Charge(ctx, Charge("a", s.Late))
		answer <- err
	}()
	for len(s.Taken()) == 0 && len(answer) == 0 {
		time.Sleep(time.Millisecond)
	}
	leave()
	err := <-answer
	if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok {
		t.Errorf("a late answer: %v", err)
	}
	s.taken(t, s.charge(t, Charge("a", s.Late)))
}

func atOnce(t *testing.T, s Subject) {
	ids := make([]string, 20)
	var group errgroup.Group
	for i := range ids {
		group.Go(func() (err error) {
			// What is under way is no answer, and who asks again gets one.
			for try := 0; try < 20; try++ {
				if ids[i], err = s.Provider.Charge(t.Context(), Charge("a", s.Good)); err == nil {
					return nil
				}
				if _, ok := errors.AsType[*payment.DeclinedError](err); ok || errors.Is(err, payment.ErrKeyUsed) {
					return fmt.Errorf("the same charge, asked for at once: %w", err)
				}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if all := slices.Compact(slices.Clone(ids)); len(all) != 1 {
		t.Errorf("charges %q", all)
	}
	s.taken(t, ids[0])
}

func refund(t *testing.T, s Subject) {
	a, b := s.charge(t, Charge("a", s.Good)), s.charge(t, Charge("b", s.Good))
	anew := Refund("a", a)
	anew.Key = "another"
	for _, r := range []payment.Refund{Refund("a", a), Refund("a", a), anew} {
		if err := s.Provider.Refund(t.Context(), r); err != nil {
			t.Errorf("refund %s: %v", r.Key, err)
		}
	}
	if n := s.Returned(a); n != 1 {
		t.Errorf("%d refunds of %s", n, a)
	}
	if n := s.Returned(b); n != 0 {
		t.Errorf("%d refunds of %s", n, b)
	}
}

func refundAtOnce(t *testing.T, s Subject) {
	a := s.charge(t, Charge("a", s.Good))
	var group errgroup.Group
	for range 20 {
		group.Go(func() (err error) {
			for try := 0; try < 20; try++ {
				if err = s.Provider.Refund(t.Context(), Refund("a", a)); err == nil {
					return nil
				}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if n := s.Returned(a); n != 1 {
		t.Errorf("%d refunds", n)
	}
}

func refundOfNothing(t *testing.T, s Subject) {
	if err := s.Provider.Refund(t.Context(), Refund("a", "ch_none")); !errors.Is(err, payment.ErrNoCharge) {
		t.Errorf("refund of an unknown charge: %v, want %v", err, payment.ErrNoCharge)
	}
}

// nobody: what is asked when nobody waits any more may be done or not, and is
// never an answer.
func nobody(t *testing.T, s Subject) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	id, err := s.Provider.Charge(gone, Charge("a", s.Good))
	if _, ok := errors.AsType[*payment.DeclinedError](err); err == nil || ok {
		t.Errorf("charge: %q, %v", id, err)
	}
	a := s.charge(t, Charge("a", s.Good))
	if err := s.Provider.Refund(gone, Refund("a", a)); err == nil || errors.Is(err, payment.ErrNoCharge) {
		t.Errorf("refund: %v", err)
	}
	if err := s.Provider.Refund(t.Context(), Refund("a", a)); err != nil || s.Returned(a) != 1 {
		t.Errorf("refund: %v, %d of them", err, s.Returned(a))
	}
	s.taken(t, a)
}
