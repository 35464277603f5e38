// Package ticket is a ticket and its rules.
package ticket

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTitle is the longest title, in Unicode code points.
const MaxTitle = 200

// Refusal is why something cannot be done, in words for people.
type Refusal string

// Error implements error.
func (r Refusal) Error() string { return string(r) }

// What can be wrong with a title, and with a change of state.
const (
	ErrNoTitle   Refusal = "Title is required"
	ErrLongTitle Refusal = "Title must be at most 200 characters"
	ErrReserved  Refusal = "Ticket is reserved"
	ErrSold      Refusal = "Ticket is sold to another order"
)

// Ticket is one ticket on sale, held by an order, or sold to it.
type Ticket struct {
	ID      string
	Title   string
	Price   Price
	UserID  string // the seller
	Version int64  // 0, then one more with every change
	OrderID string // the order that holds or bought the ticket; empty while it can be bought
	Sold    bool   // the order is complete; implies an OrderID
}

// CheckTitle returns ErrNoTitle, ErrLongTitle, or nil.
func CheckTitle(title string) error {
	switch {
	case strings.TrimSpace(title) == "":
		return ErrNoTitle
	case utf8.RuneCountInString(title) > MaxTitle:
		return ErrLongTitle
	}
	return nil
}

// Edit gives the ticket another title and price. It reports whether that
// changed anything; only then is there a new version. It fails with
// ErrReserved once an order holds the ticket.
func (t *Ticket) Edit(title string, price Price) (changed bool, err error) {
	if t.OrderID != "" {
		return false, ErrReserved
	}
	if t.Title == title && t.Price == price {
		return false, nil
	}
	t.Title, t.Price = title, price
	t.Version++
	return true, nil
}

// Delete ends the ticket: its version becomes the last. It fails with
// ErrReserved once an order holds the ticket.
func (t *Ticket) Delete() error {
	if t.OrderID != "" {
		return ErrReserved
	}
	t.Version++
	return nil
}

// Reserve lets the order hold the ticket, if nobody does. It reports whether
// that changed anything.
func (t *Ticket) Reserve(order string) (changed bool) {
	if t.OrderID != "" {
		return false
	}
	t.OrderID = order
	t.Version++
	return true
}

// Release frees the ticket, if that order holds it and has not bought it. It
// reports whether that changed anything.
func (t *Ticket) Release(order string) (changed bool) {
	if t.OrderID != order || t.Sold {
		return false
	}
	t.OrderID = ""
	t.Version++
	return true
}

// Sell gives the ticket to the order for good, whichever order held it: a
// complete order is the only one alive, so the holder's cancellation must be
// on its way. It reports whether that changed anything, and fails with ErrSold
// if another order has bought the ticket.
func (t *Ticket) Sell(order string) (changed bool, err error) {
	if t.Sold {
		if t.OrderID != order {
			return false, ErrSold
		}
		return false, nil
	}
	t.OrderID, t.Sold = order, true
	t.Version++
	return true, nil
}

// Fold maps texts that differ only in letter case, in any script, to one text,
// for searching.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		// The least of the letters that differ only in case: Σ for Σ, σ and ς.
		r = unicode.ToLower(r)
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
