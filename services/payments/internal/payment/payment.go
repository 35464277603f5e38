// Package payment is a payment and its rules.
package payment

import "time"

// Currency is the one currency of this application.
const Currency = "usd"

// Status is where a payment stands.
type Status string

// The states of a payment. Pending becomes Captured or Declined.
const (
	Pending  Status = "pending"  // the provider is being asked
	Captured Status = "captured" // the money was taken
	Declined Status = "declined" // it was not; the order can be paid again
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
	ID       string
	OrderID  string
	UserID   string // who pays
	Amount   int64  // minor units
	Currency string
	Status   Status
	Token    string // the means of payment; forgotten once the payment is not Pending
	ChargeID string // the provider's id of a captured payment
	Reason   string // why the payment was declined, for people
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

// Charge is what the provider is asked for. It follows from the payment alone,
// so that whoever carries a pending payment on asks for the same.
func (p Payment) Charge() Charge {
	return Charge{Key: "payment-" + p.ID, Amount: p.Amount, Currency: p.Currency, Token: p.Token, OrderID: p.OrderID}
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

// Charge asks a provider to take money. However often a provider is asked with
// one key, it takes the money once and answers the same.
type Charge struct {
	Key      string
	Amount   int64 // minor units
	Currency string
	Token    string
	OrderID  string // for people who read the provider's books
}

// DeclinedError is a provider's definite answer that it takes no money.
type DeclinedError struct {
	Reason string // for people
}

// Error implements error.
func (e *DeclinedError) Error() string { return "declined: " + e.Reason }
