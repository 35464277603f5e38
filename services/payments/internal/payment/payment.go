// Package payment is a payment and its rules.
package payment

import (
	"time"

	"github.com/google/uuid"
)

// Currency is the one currency of this application.
const Currency = "usd"

// Status is where a payment stands.
type Status string

// The states of a payment. Pending becomes Captured or Declined, and money that
// was taken may go back.
const (
	Pending  Status = "pending"  // the provider is being asked
	Captured Status = "captured" // the money was taken
	Declined Status = "declined" // it was not; the order can be paid again
	Refunded Status = "refunded" // it was taken, and has gone back
)

// Return is whether the money of a payment goes back.
type Return string

// The states of a Return. A payment whose money goes back stays Captured until
// it has gone: see Payment.Shown.
const (
	NoReturn Return = ""
	Due      Return = "due"    // the provider is being asked
	Done     Return = "done"   // it has gone back
	Failed   Return = "failed" // it has not, and the provider gives it back no more: somebody has to
	ByHand   Return = "hand"   // somebody has
)

// Refusal is why something cannot be done, in words for people.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return string(r) }

// Why an order cannot be paid.
const (
	ErrCancelled Refusal = "Cannot pay for a cancelled order"
	ErrExpired   Refusal = "Order has expired"
	ErrPaid      Refusal = "Order is already paid"
	ErrUnderWay  Refusal = "Order is already paid or being paid"
)

// Order is an order, as this service has heard of it.
type Order struct {
	ID        string
	UserID    string // the buyer
	Price     int64  // minor units
	Status    OrderStatus
	ExpiresAt time.Time
	Version   int64
}

// OrderStatus is where an order stands.
type OrderStatus string

// The states of an order; the last two are final.
const (
	OrderCreated   OrderStatus = "created"
	OrderComplete  OrderStatus = "complete"
	OrderCancelled OrderStatus = "cancelled"
)

// Payment is one attempt to pay an order.
type Payment struct {
	ID       string // UUIDv7
	OrderID  string
	UserID   string // who pays
	Amount   int64  // minor units
	Currency string
	Status   Status // Pending, Captured or Declined
	Token    string // the means of payment; forgotten once the payment is not Pending
	ChargeID string // the provider's id of the money that was taken
	Reason   string // why the payment was declined or its money cannot be given back, for people
	Return   Return
	Request  string // the request that began it, if it can be sent again: see web.IdempotencyID
	Tries    int    // how often the provider was asked again
}

// Begin makes the payment of an order with a token. It fails with ErrCancelled,
// ErrPaid, or, once the order's time is up, with ErrExpired.
func Begin(id string, o Order, token string, at time.Time) (Payment, error) {
	switch {
	case o.Status == OrderCancelled:
		return Payment{}, ErrCancelled
	case o.Status == OrderComplete:
		return Payment{}, ErrPaid
	case !at.Before(o.ExpiresAt):
		return Payment{}, ErrExpired
	}
	return Payment{
		ID:       id,
		OrderID:  o.ID,
		UserID:   o.UserID,
		Amount:   o.Price,
		Currency: Currency,
		Status:   Pending,
		Token:    token,
	}, nil
}

// Shown is the payment's status for people. Money that is to go back, and has
// not yet, is still taken.
func (p Payment) Shown() Status {
	if p.Return == Done || p.Return == ByHand {
		return Refunded
	}
	return p.Status
}

// Charge is what the provider is asked for. It follows from the payment alone,
// so that whoever carries a pending payment on asks for the same.
func (p Payment) Charge() Charge {
	c := Charge{Key: "payment-" + p.ID, PaymentID: p.ID, OrderID: p.OrderID, Amount: p.Amount, Currency: p.Currency, Token: p.Token}
	if id, err := uuid.Parse(p.ID); err == nil {
		c.Begun = time.Unix(id.Time().UnixTime()).UTC()
	}
	return c
}

// Refund is what the provider is asked for when the money goes back. It follows
// from the payment alone, too.
func (p Payment) Refund() Refund {
	return Refund{Key: "refund-" + p.ID, PaymentID: p.ID, ChargeID: p.ChargeID, Amount: p.Amount}
}

// Capture records that the provider took the money.
func (p Payment) Capture(chargeID string) Payment {
	p.Status, p.ChargeID, p.Token = Captured, chargeID, ""
	return p
}

// Decline records that the provider did not take the money, and why.
func (p Payment) Decline(reason string) Payment {
	p.Status, p.Reason, p.Token = Declined, reason, ""
	return p
}
