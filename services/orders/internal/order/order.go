// Package order is an order and its rules.
package order

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Status is where an order stands. Complete and Cancelled are final.
type Status string

// The states of an order.
const (
	Created   Status = "created"
	Complete  Status = "complete"
	Cancelled Status = "cancelled"
)

// Refusal is why something cannot be done, in words for people.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return string(r) }

// Why an order cannot be placed or cancelled.
const (
	ErrOwnTicket Refusal = "You cannot order your own ticket"
	ErrTaken     Refusal = "Ticket is already reserved"
	ErrComplete  Refusal = "Order is already complete"
)

// Price is an amount of money in minor units: 1999 is 19.99.
type Price int64

// String writes the price as the shortest decimal number: 19.99, 19.5, 20.
func (p Price) String() string {
	s := fmt.Sprintf("%d.%02d", p/100, p%100)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// MarshalJSON writes the price as a decimal number.
func (p Price) MarshalJSON() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Price) UnmarshalJSON(text []byte) error {
	whole, fraction, _ := strings.Cut(string(text), ".")
	cents, err := strconv.ParseInt(whole+(fraction + "00")[:2], 10, 64)
	if err != nil || len(fraction) > 2 {
		return fmt.Errorf("%s is not a price", text)
	}
	*p = Price(cents)
	return nil
}

// Ticket is a ticket on sale, as this service has heard of it.
type Ticket struct {
	ID      string
	Title   string
	Price   Price
	UserID  string // the seller
	Version int64
}

// Order is a buyer's hold on one ticket.
type Order struct {
	ID        string
	UserID    string // the buyer
	Status    Status
	ExpiresAt time.Time // when it is cancelled unless it is complete
	Version   int64     // 0, then one more with every change
	Ticket    Snapshot
	PaymentID string // what completed it
}

// Snapshot is a ticket as it was when it was ordered: what the buyer saw is
// what is charged.
type Snapshot struct {
	ID    string
	Title string
	Price Price
}

// Place makes the order of a ticket by a buyer at a time, to expire after the
// window. It fails with ErrOwnTicket for the ticket's seller.
func Place(id, buyer string, t Ticket, at time.Time, window time.Duration) (Order, error) {
	if t.UserID == buyer {
		return Order{}, ErrOwnTicket
	}
	return Order{
		ID:        id,
		UserID:    buyer,
		Status:    Created,
		ExpiresAt: at.Add(window).UTC().Truncate(time.Millisecond),
		Ticket:    Snapshot{ID: t.ID, Title: t.Title, Price: t.Price},
	}, nil
}
