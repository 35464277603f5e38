package ticket_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/turnstile-go/turnstile/services/tickets/internal/ticket"
)

func TestCheckTitle(t *testing.T) {
	for title, want := range map[string]error{
		"Concert": nil, strings.Repeat("ü", 200): nil, " padded ": nil,
		"": ticket.ErrNoTitle, " \t\u2003": ticket.ErrNoTitle, strings.Repeat("ü", 201): ticket.ErrLongTitle,
	} {
		if err := ticket.CheckTitle(title); !errors.Is(err, want) {
			t.Errorf("CheckTitle(%q) = %v, want %v", title, err, want)
		}
	}
}

func TestFold(t *testing.T) {
	for _, same := range [][]string{
		{"Concert", "CONCERT", "concert"}, {"ÜBER", "über"}, {"ΣΊΣΥΦΟΣ", "σίσυφος"}, {"Москва", "МОСКВА"}, {"İstanbul", "istanbul"}, {"K", "k", "K"},
	} {
		for _, s := range same {
			if ticket.Fold(s) != ticket.Fold(same[0]) {
				t.Errorf("Fold(%q) = %q, Fold(%q) = %q", s, ticket.Fold(s), same[0], ticket.Fold(same[0]))
			}
		}
	}
	if ticket.Fold("a") == ticket.Fold("b") {
		t.Error("a and b are one")
	}
}

func TestEdit(t *testing.T) {
	tk := ticket.Ticket{Title: "a", Price: 100}
	if changed, err := tk.Edit("a", 100); changed || err != nil || tk.Version != 0 {
		t.Errorf("an edit that changes nothing: %v, %v, %+v", changed, err, tk)
	}
	if changed, err := tk.Edit("a", 200); !changed || err != nil || tk.Version != 1 || tk.Price != 200 {
		t.Errorf("an edit: %v, %v, %+v", changed, err, tk)
	}
	tk.Reserve("o")
	if changed, err := tk.Edit("b", 300); changed || !errors.Is(err, ticket.ErrReserved) || tk.Version != 2 {
		t.Errorf("an edit of a reserved ticket: %v, %v, %+v", changed, err, tk)
	}
	if err := tk.Delete(); !errors.Is(err, ticket.ErrReserved) {
		t.Errorf("deletion of a reserved ticket: %v", err)
	}
	tk.Release("o")
	if err := tk.Delete(); err != nil || tk.Version != 4 {
		t.Errorf("deletion: %v, %+v", err, tk)
	}
}

// TestHolding goes through what orders do to a ticket, step by step.
func TestHolding(t *testing.T) {
	type step struct {
		what, order string
		changed     bool
		want        ticket.Ticket
	}
	for name, steps := range map[string][]step{
		"released": {
			{"reserve", "a", true, ticket.Ticket{OrderID: "a", Version: 1}},
			{"reserve", "a", false, ticket.Ticket{OrderID: "a", Version: 1}},
			{"release", "a", true, ticket.Ticket{Version: 2}},
			{"release", "a", false, ticket.Ticket{Version: 2}},
		},
		"another's order": {
			{"reserve", "a", true, ticket.Ticket{OrderID: "a", Version: 1}},
			{"reserve", "b", false, ticket.Ticket{OrderID: "a", Version: 1}},
			{"release", "b", false, ticket.Ticket{OrderID: "a", Version: 1}},
		},
		"sold": {
			{"reserve", "a", true, ticket.Ticket{OrderID: "a", Version: 1}},
			{"sell", "a", true, ticket.Ticket{OrderID: "a", Sold: true, Version: 2}},
			{"sell", "a", false, ticket.Ticket{OrderID: "a", Sold: true, Version: 2}},
			{"release", "a", false, ticket.Ticket{OrderID: "a", Sold: true, Version: 2}},
			{"reserve", "b", false, ticket.Ticket{OrderID: "a", Sold: true, Version: 2}},
		},
		"sold before the holder's cancellation": {
			{"reserve", "a", true, ticket.Ticket{OrderID: "a", Version: 1}},
			{"sell", "b", true, ticket.Ticket{OrderID: "b", Sold: true, Version: 2}},
			{"release", "a", false, ticket.Ticket{OrderID: "b", Sold: true, Version: 2}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var tk ticket.Ticket
			for i, s := range steps {
				var changed bool
				var err error
				switch s.what {
				case "reserve":
					changed = tk.Reserve(s.order)
				case "release":
					changed = tk.Release(s.order)
				case "sell":
					changed, err = tk.Sell(s.order)
				}
				if changed != s.changed || err != nil || tk != s.want {
					t.Fatalf("step %d, %s by %s: %v, %v, %+v; want %v, %+v", i, s.what, s.order, changed, err, tk, s.changed, s.want)
				}
			}
		})
	}

	tk := ticket.Ticket{OrderID: "a", Sold: true}
	if changed, err := tk.Sell("b"); changed || !errors.Is(err, ticket.ErrSold) {
		t.Errorf("a second sale: %v, %v, %+v", changed, err, tk)
	}
}
