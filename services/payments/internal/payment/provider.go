package payment

import (
	"context"
	"errors"
	"time"
)

// Provider moves money. Both of its methods may be called again, by anybody and
// at any time: with one key it does a thing once and answers the same. That is
// how a payment is carried on after a crash or a lost answer.
type Provider interface {
	// Charge takes the money and returns the provider's id of that. It fails
	// with a *DeclinedError if the provider has not taken the money and never
	// will. After any other error it is unknown whether it was taken, and to ask
	// again with the same key tells.
	Charge(ctx context.Context, c Charge) (id string, err error)

	// Refund gives all the money of a charge back. It returns nil once the
	// money has gone, also if somebody else had it returned. It fails with
	// ErrNoCharge if there is no such charge, and with a *NotReturnedError if
	// the refund has failed: then it is not asked again, since somebody may have
	// given the money back in another way. After any other error it is unknown
	// what becomes of it, and to ask again with the same key tells.
	Refund(ctx context.Context, r Refund) error
}

// Charge asks a provider to take money.
type Charge struct {
	Key       string // of this charge and no other
	PaymentID string
	OrderID   string // for people who read the provider's books
	Amount    int64  // minor units
	Currency  string
	Token     string
	Begun     time.Time // when it was asked for first, to the millisecond; zero if that is not known
}

// Refund asks a provider to give the money of a charge back.
type Refund struct {
	Key       string // of this refund and no other
	PaymentID string
	ChargeID  string // as Charge returned it
	Amount    int64  // minor units: all of it
}

// DeclinedError is a provider's definite answer that it takes no money.
type DeclinedError struct {
	Reason string // for people
	Err    error  // what operators should know beside the reason; nil if there is nothing
}

// Error implements error.
func (e *DeclinedError) Error() string { return "declined: " + e.Reason }

// Unwrap returns Err.
func (e *DeclinedError) Unwrap() error { return e.Err }

// NotReturnedError is a provider's definite answer that a refund has failed.
type NotReturnedError struct {
	Reason string // for people
}

// Error implements error.
func (e *NotReturnedError) Error() string { return "the refund failed: " + e.Reason }

// What a Provider may answer beside a *DeclinedError or a *NotReturnedError.
var (
	ErrNoCharge = errors.New("the provider has no such charge")
	ErrKeyUsed  = errors.New("the provider was asked for something else with this key before")
)

// News is what a provider tells by itself: what has become of a payment.
type News struct {
	PaymentID string
	Result    Result
	ChargeID  string // of Taken
	Amount    int64  // minor units, of Taken
	Currency  string // of Taken
	Reason    string // of NotTaken and NotReturned, for people
}

// Result is what News tells.
type Result string

// The results. All are final.
const (
	Taken       Result = "taken"
	NotTaken    Result = "not taken"
	Returned    Result = "returned"
	NotReturned Result = "not returned" // somebody has to see to it
)
