// Package invariants looks in the databases of the four services for what must never be, whatever failed before: a
// ticket that is sold twice, money that is taken and belongs to no order, an order that never ends, services that do
// not agree. It looks at the business only; whether every event had its effect exactly once and in order is for
// framework/event/admin to say.
//
// What it finds means something once the system is quiet: every event has arrived wherever somebody listens.
package invariants

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Querier reads a database, PostgreSQL or SQLite. One connection is enough.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Application is the databases of the four services. Auth may be nil unless promises to users are to be checked.
type Application struct{ Auth, Orders, Payments, Tickets Querier }

// Kind is the kind of a violation.
type Kind string

// The kinds of violations.
const (
	Lost       Kind = "lost"       // something was acknowledged, and is not there
	DoubleSold Kind = "doublesold" // a ticket has two buyers or is on sale though it is sold; an order was paid twice
	Unsettled  Kind = "unsettled"  // an order is open though its time is up, or money has no place
	Divergent  Kind = "divergent"  // two services do not say the same
)

// Violation is something that must not be.
type Violation struct {
	Kind        Kind
	Stream, Key string // of the events in which it happened
	Text        string // for people
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: %s (see %s %s)", v.Kind, v.Text, v.Stream, v.Key)
}

// Report is what a check has found.
type Report struct {
	Violations []Violation
	Orders     map[string]int // how many there are, by status
}

// Count returns the number of violations of a kind.
func (r *Report) Count(kind Kind) (n int) {
	for _, v := range r.Violations {
		if v.Kind == kind {
			n++
		}
	}
	return n
}

func (r *Report) add(kind Kind, stream, key, format string, args ...any) {
	r.Violations = append(r.Violations, Violation{Kind: kind, Stream: stream, Key: key, Text: fmt.Sprintf(format, args...)})
}

// Grace is how long after its time an order may still be open in a healthy system.
const Grace = 5 * time.Second

// Check compares the services with each other and with the rules of the business, as of now. It returns an error only
// if a database cannot be read.
func Check(ctx context.Context, app Application, now time.Time) (*Report, error) {
	b, err := read(ctx, app)
	if err != nil {
		return nil, err
	}
	r := &Report{Orders: map[string]int{}}
	for _, o := range b.orders {
		r.Orders[o.status]++
	}
	b.checkTickets(r)
	b.checkOrders(r, now)
	b.checkMoney(r)
	return r, nil
}

func (b *books) checkTickets(r *Report) {
	compare(r, "tickets", "tickets and orders on the ticket", b.offered, b.known)
	for _, id := range slices.Sorted(maps.Keys(b.held)) {
		if h := b.held[id]; h.sold && h.order == "" {
			r.add(DoubleSold, "tickets", id, "ticket %s is sold, and on sale", id)
		}
	}
}

func (b *books) checkOrders(r *Report, now time.Time) {
	replicas := map[string]order{}
	live := map[string]holding{} // by ticket
	for _, id := range slices.Sorted(maps.Keys(b.orders)) {
		o := b.orders[id]
		replicas[id] = o.order
		if o.status == "created" && now.After(time.UnixMicro(o.expires).Add(Grace)) {
			r.add(Unsettled, "orders", id, "order %s is open %s after its time was up", id, now.Sub(time.UnixMicro(o.expires)).Round(time.Millisecond))
		}
		if o.status == "cancelled" {
			continue
		}
		if other, twice := live[o.ticket]; twice {
			r.add(DoubleSold, "orders", id, "ticket %s has two live orders, %s and %s", o.ticket, other.order, id)
		}
		live[o.ticket] = holding{id, o.status == "complete"}
	}
	compare(r, "orders", "orders and payments on the order", replicas, b.payable)

	held := maps.Clone(b.held)
	maps.DeleteFunc(held, func(_ string, h holding) bool { return h == holding{} })
	// A seller may delete a ticket that was paid for before either service had heard of the other's doing: the buyer
	// keeps what was bought, and the ticket is as little for sale as a sold one.
	maps.DeleteFunc(live, func(ticket string, h holding) bool {
		_, there := b.offered[ticket]
		return !there && h.sold
	})
	compare(r, "tickets", "tickets and orders on who holds the ticket", held, live)
}

func (b *books) checkMoney(r *Report) {
	kept := map[string]string{}    // order by order: the payment that is kept
	charged := map[string]string{} // by the provider's id of a charge
	for _, id := range slices.Sorted(maps.Keys(b.payments)) {
		p := b.payments[id]
		if p.charge != "" {
			charged[p.charge] = id
		}
		switch {
		case p.refund == "due":
			r.add(Unsettled, "payments", id, "the money of payment %s of order %s is to go back, and has not", id, p.order)
		case b.refunds[p.charge] != (p.refund == "done"):
			r.add(Divergent, "payments", id, "payment %s of order %s says %q of its refund, and that the provider has given the money back is %t",
				id, p.order, p.refund, b.refunds[p.charge])
		}
		o := b.orders[p.order]
		switch {
		case p.status == "pending":
			r.add(Unsettled, "payments", id, "payment %s of order %s is pending", id, p.order)
		case p.status != "captured":
			continue
		case p.amount != o.price:
			r.add(Divergent, "payments", id, "payment %s took %d for order %s of %d", id, p.amount, p.order, o.price)
		}
		switch {
		case o.payment == id && (b.refused[id] || p.refund != ""):
			r.add(Divergent, "payments", id, "payment %s completed order %s, and was refused or given back", id, p.order)
		case o.payment == id && o.status != "complete":
			r.add(Divergent, "orders", p.order, "order %s is paid by %s, and %s", p.order, id, o.status)
		case o.payment != id && p.refund == "":
			r.add(Unsettled, "payments", id, "payment %s was captured, and order %s (%s) was not completed by it; its refund is not asked for", id, p.order, o.status)
		}
		if p.refund == "done" {
			continue
		}
		if other, twice := kept[p.order]; twice {
			r.add(DoubleSold, "payments", id, "order %s was paid twice, by %s and %s", p.order, other, id)
		}
		kept[p.order] = id
	}
	for _, id := range slices.Sorted(maps.Keys(b.orders)) {
		o := b.orders[id]
		if p := b.payments[o.payment]; o.status == "complete" && (p.order != id || p.status != "captured") {
			r.add(Unsettled, "orders", id, "order %s is complete, and payment %q of it was not captured", id, o.payment)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.charges)) {
		if charged[id] == "" {
			r.add(Unsettled, "orders", b.charges[id], "the provider has taken the money of charge %s for order %s, and no payment says so", id, b.charges[id])
		}
	}
}

// compare adds how two services' views of the same things differ.
func compare[V comparable](r *Report, stream, what string, source, replica map[string]V) {
	ids := map[string]bool{}
	for id := range source {
		ids[id] = true
	}
	for id := range replica {
		ids[id] = true
	}
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		left, here := source[id]
		right, there := replica[id]
		if here != there || left != right {
			r.add(Divergent, stream, id, "%s do not agree: %s is %+v (there: %t) and %+v (there: %t)", what, id, left, here, right, there)
		}
	}
}

// Promises is what people were told, by id: what they were told must hold for ever.
type Promises struct {
	Users     []string // 201 for a sign-up
	Offered   []string // 201 for a ticket
	Withdrawn []string // 204 for the deletion of a ticket
	Ordered   []string // 201 for an order
	Cancelled []string // 204 for the cancellation of an order
	Paid      []string // 201 for a payment
}

// CheckPromises returns which promises were broken. It returns an error only if a database cannot be read.
func CheckPromises(ctx context.Context, app Application, p Promises) ([]Violation, error) {
	users, err := ids(ctx, app.Auth, `SELECT id FROM users`)
	if err != nil {
		return nil, fmt.Errorf("read the users of auth: %w", err)
	}
	b, err := read(ctx, app)
	if err != nil {
		return nil, err
	}
	var r Report
	each := func(stream, what string, promised []string, kept func(id string) bool) {
		for _, id := range promised {
			if !kept(id) {
				r.add(Lost, stream, id, what, id)
			}
		}
	}
	offered := func(id string) bool { _, ok := b.offered[id]; return ok }
	each("users", "user %s was welcomed, and is not there", p.Users, func(id string) bool { return users[id] })
	each("tickets", "ticket %s was accepted, and is not there", p.Offered, func(id string) bool { return offered(id) || b.deleted[id] })
	each("tickets", "ticket %s was deleted, and is there", p.Withdrawn, func(id string) bool { return !offered(id) })
	each("orders", "order %s was accepted, and is not there", p.Ordered, func(id string) bool { _, ok := b.orders[id]; return ok })
	each("orders", "order %s was cancelled, and is not", p.Cancelled, func(id string) bool { return b.orders[id].status == "cancelled" })
	each("payments", "payment %s was accepted, and the money was not taken", p.Paid, func(id string) bool { return b.payments[id].status == "captured" })
	return r.Violations, nil
}

// books are what the services' databases say.
type books struct {
	offered map[string]ticket  // by id, as tickets has them
	known   map[string]ticket  // as orders has them
	held    map[string]holding // by ticket, as tickets has it
	deleted map[string]bool    // tickets

	orders  map[string]placedOrder // by id, as orders has them
	payable map[string]order       // as payments has them
	refused map[string]bool        // payments that orders has refused

	payments map[string]payment
	charges  map[string]string // the orders of the provider's charges, by the charge's id
	refunds  map[string]bool   // the charges whose money the provider has given back
}

type (
	// ticket and order are what all say who know it.
	ticket struct {
		title, seller  string
		price, version int64
	}
	order struct {
		buyer, status           string
		price, version, expires int64
	}
	holding struct {
		order string
		sold  bool
	}
	placedOrder struct {
		order
		ticket, payment string
	}
	payment struct {
		order, status, charge, refund string
		amount                        int64
	}
)

func read(ctx context.Context, app Application) (*books, error) {
	b := &books{
		offered: map[string]ticket{}, known: map[string]ticket{}, held: map[string]holding{},
		orders: map[string]placedOrder{}, payable: map[string]order{}, refused: map[string]bool{},
		payments: map[string]payment{}, charges: map[string]string{}, refunds: map[string]bool{},
	}
	if err := b.readTickets(ctx, app.Tickets); err != nil {
		return nil, fmt.Errorf("read the database of tickets: %w", err)
	}
	if err := b.readOrders(ctx, app.Orders); err != nil {
		return nil, fmt.Errorf("read the database of orders: %w", err)
	}
	if err := b.readPayments(ctx, app.Payments); err != nil {
		return nil, fmt.Errorf("read the database of payments: %w", err)
	}
	return b, nil
}

func (b *books) readTickets(ctx context.Context, db Querier) (err error) {
	if b.deleted, err = ids(ctx, db, `SELECT key FROM event_outbox WHERE type = 'ticket.deleted'`); err != nil {
		return err
	}
	return rows(ctx, db, `SELECT id, title, user_id, price, version, order_id, sold FROM tickets`, func(scan scanner) error {
		var id string
		var t ticket
		var h holding
		if err := scan(&id, &t.title, &t.seller, &t.price, &t.version, &h.order, &h.sold); err != nil {
			return err
		}
		b.offered[id], b.held[id] = t, h
		return nil
	})
}

func (b *books) readOrders(ctx context.Context, db Querier) error {
	err := rows(ctx, db, `SELECT id, title, user_id, price, version FROM tickets WHERE deleted = 0`, func(scan scanner) error {
		var id string
		var t ticket
		if err := scan(&id, &t.title, &t.seller, &t.price, &t.version); err != nil {
			return err
		}
		b.known[id] = t
		return nil
	})
	if err != nil {
		return err
	}
	err = rows(ctx, db, `SELECT id, user_id, status, ticket_price, version, expires_at, ticket_id, payment_id FROM orders`, func(scan scanner) error {
		var id string
		var o placedOrder
		if err := scan(&id, &o.buyer, &o.status, &o.price, &o.version, &o.expires, &o.ticket, &o.payment); err != nil {
			return err
		}
		b.orders[id] = o
		return nil
	})
	if err != nil {
		return err
	}
	return rows(ctx, db, `SELECT body FROM event_outbox WHERE type = 'order.payment_refused'`, func(scan scanner) error {
		var body []byte
		if err := scan(&body); err != nil {
			return err
		}
		var refusal struct{ Data struct{ PaymentID string } }
		if err := json.Unmarshal(body, &refusal); err != nil {
			return fmt.Errorf("the event %s: %w", body, err)
		}
		b.refused[refusal.Data.PaymentID] = true
		return nil
	})
}

func (b *books) readPayments(ctx context.Context, db Querier) error {
	err := rows(ctx, db, `SELECT id, user_id, status, price, version, expires_at FROM orders`, func(scan scanner) error {
		var id string
		var o order
		if err := scan(&id, &o.buyer, &o.status, &o.price, &o.version, &o.expires); err != nil {
			return err
		}
		b.payable[id] = o
		return nil
	})
	if err != nil {
		return err
	}
	err = rows(ctx, db, `SELECT id, order_id, status, amount, charge_id, refund FROM payments`, func(scan scanner) error {
		var id string
		var p payment
		if err := scan(&id, &p.order, &p.status, &p.amount, &p.charge, &p.refund); err != nil {
			return err
		}
		b.payments[id] = p
		return nil
	})
	if err != nil {
		return err
	}
	if b.refunds, err = ids(ctx, db, `SELECT charge_id FROM sandbox_refunds`); err != nil {
		return err
	}
	return rows(ctx, db, `SELECT id, order_id FROM sandbox_charges WHERE declined = ''`, func(scan scanner) error {
		var id, order string
		if err := scan(&id, &order); err != nil {
			return err
		}
		b.charges[id] = order
		return nil
	})
}

type scanner func(...any) error

// rows calls row with every row of a query; row is given the function that reads the columns.
func rows(ctx context.Context, db Querier, query string, row func(scanner) error) (err error) {
	all, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	for all.Next() {
		if err := row(all.Scan); err != nil {
			return err
		}
	}
	return all.Err()
}

// ids returns the first column of a query.
func ids(ctx context.Context, db Querier, query string) (map[string]bool, error) {
	all := map[string]bool{}
	err := rows(ctx, db, query, func(scan scanner) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		all[id] = true
		return nil
	})
	return all, err
}
