package service_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/orders/service"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/tickets"
)

var foreign = []event.Event{tickets.Created{}, tickets.Updated{}, tickets.Deleted{}, payments.Captured{}}

func listen(p *peer, l *event.Listener) {
	hear[orders.Created](p, l)
	hear[orders.Cancelled](p, l)
	hear[orders.Completed](p, l)
	hear[orders.PaymentRefused](p, l)
}

type order struct {
	ID        string `json:"id"`
	Status    string `json:"status"`
	UserID    string `json:"userId"`
	ExpiresAt string `json:"expiresAt"`
	Version   int64  `json:"version"`
	Ticket    struct {
		ID    string      `json:"id"`
		Title string      `json:"title"`
		Price json.Number `json:"price"`
	} `json:"ticket"`
}

type input map[string]any

// offer publishes that tickets are for sale and waits until the service knows.
// That it refuses the seller is the only way to see that without ordering.
func (h *harness) offer(ids ...string) {
	h.t.Helper()
	var events []event.Event
	for _, id := range ids {
		events = append(events, tickets.Created{ID: id, Title: "Concert " + id, Price: 1999, UserID: "seller"})
	}
	h.peer.publish(events...)
	for _, id := range ids {
		h.eventually("ticket "+id+" to be known", func() bool {
			res, err := h.call("seller", "POST", "/api/orders", input{"ticketId": id})
			return err == nil && res.status == http.StatusConflict
		})
	}
}

// numbered makes n ids.
func numbered(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint("t", i))
	}
	return ids
}

// eventually waits for what nothing signals.
func (h *harness) eventually(what string, holds func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (h *harness) place(user, ticket string) (o order) {
	h.t.Helper()
	h.want(http.StatusCreated, &o, user, "POST", "/api/orders", input{"ticketId": ticket})
	return o
}

func (h *harness) show(user, id string) (o order) {
	h.t.Helper()
	h.want(http.StatusOK, &o, user, "GET", "/api/orders/"+id, nil)
	return o
}

func TestOrder(t *testing.T) {
	h := start(t, sqlite(t))
	h.offer("t")
	before := time.Now()
	o := h.place("buyer", "t")
	if o.ID == "" || o.Status != "created" || o.UserID != "buyer" || o.Version != 0 ||
		o.Ticket.ID != "t" || o.Ticket.Title != "Concert t" || o.Ticket.Price != "19.99" {
		t.Errorf("placed %+v", o)
	}
	expires, err := time.Parse("2006-01-02T15:04:05.000Z", o.ExpiresAt)
	if window := expires.Sub(before).Round(time.Minute); err != nil || window != 15*time.Minute {
		t.Errorf("expires at %s, after %v: %v", o.ExpiresAt, window, err)
	}
	if shown := h.show("buyer", o.ID); shown != o {
		t.Errorf("placed %+v, shown %+v", o, shown)
	}
	await(h.peer, orders.Created{ID: o.ID, UserID: "buyer", ExpiresAt: expires, Ticket: orders.Ticket{ID: "t", Price: 1999}})

	// What was shown when ordering stays, whatever becomes of the ticket.
	h.peer.publish(tickets.Updated{ID: "t", Title: "Opera", Price: 5000, UserID: "seller", Version: 1})
	h.offer("t2") // after the update, since one worker takes events as they come
	if shown := h.show("buyer", o.ID); shown != o {
		t.Errorf("after the edit of the ticket: %+v, want %+v", shown, o)
	}
	h.want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	if next := h.place("buyer", "t"); next.Ticket.Title != "Opera" || next.Ticket.Price != "50" {
		t.Errorf("ordered after the edit: %+v", next)
	}
}

func TestChecksInOrder(t *testing.T) {
	h := start(t, sqlite(t))
	h.offer("t")
	good, bad := input{"ticketId": "t"}, input{"ticketId": " "}
	h.refused(http.StatusUnauthorized, nil, "", "POST", "/api/orders", bad)
	for _, body := range []any{bad, input{}, input{"ticketId": 7}, input{"ticketId": nil}, input{"TicketID": "t"}} {
		h.refused(http.StatusUnprocessableEntity, []string{"TicketId must be provided"}, "buyer", "POST", "/api/orders", body)
	}
	h.refused(http.StatusNotFound, []string{"Ticket not found"}, "buyer", "POST", "/api/orders", input{"ticketId": "unknown"})
	h.refused(http.StatusConflict, []string{"You cannot order your own ticket"}, "seller", "POST", "/api/orders", good)

	o := h.place("buyer", "t")
	for _, user := range []string{"buyer", "other"} {
		h.refused(http.StatusConflict, []string{"Ticket is already reserved"}, user, "POST", "/api/orders", good)
	}
	for _, method := range []string{"GET", "DELETE"} {
		h.refused(http.StatusUnauthorized, nil, "", method, "/api/orders/"+o.ID, nil)
		h.refused(http.StatusForbidden, nil, "other", method, "/api/orders/"+o.ID, nil)
		for _, id := range []string{"malformed", "00000000-0000-7000-8000-000000000000", "%00"} {
			h.refused(http.StatusNotFound, nil, "buyer", method, "/api/orders/"+id, nil)
		}
	}
	h.refused(http.StatusUnauthorized, nil, "", "GET", "/api/orders", nil)
}

func TestCancel(t *testing.T) {
	h := start(t, sqlite(t))
	h.offer("t")
	o := h.place("buyer", "t")
	for range 3 {
		h.want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	}
	if got := h.show("buyer", o.ID); got.Status != "cancelled" || got.Version != 1 {
		t.Errorf("cancelled: %+v", got)
	}
	// The next order's events are sent after all of this one's.
	next := h.place("other", "t")
	h.want(http.StatusNoContent, nil, "other", "DELETE", "/api/orders/"+next.ID, nil)
	await(h.peer, orders.Cancelled{ID: next.ID, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	if all := await(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1}); len(all) != 1 {
		t.Errorf("cancelled thrice, told %d times", len(all))
	}
}

// TestPayment: the first payment completes an order, once; any other, and one
// for a cancelled order, is refused so that the money goes back.
func TestPayment(t *testing.T) {
	h := start(t, sqlite(t))
	h.offer("t", "t2")
	o, cancelled := h.place("buyer", "t"), h.place("buyer", "t2")
	h.want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+cancelled.ID, nil)

	h.peer.publish(
		payments.Captured{ID: "nowhere", OrderID: "unknown", Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p1", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p1", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p2", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p3", OrderID: cancelled.ID, Amount: 1999, Currency: "usd"},
	)
	await(h.peer, orders.PaymentRefused{ID: cancelled.ID, PaymentID: "p3"})
	if all := await(h.peer, orders.PaymentRefused{ID: o.ID, PaymentID: "p2"}); len(all) != 1 {
		t.Errorf("refused: %+v", all)
	}
	if all := await(h.peer, orders.Completed{ID: o.ID, Ticket: orders.TicketRef{ID: "t"}, Version: 1}); len(all) != 1 {
		t.Errorf("completed %d times", len(all))
	}
	if got := h.show("buyer", o.ID); got.Status != "complete" || got.Version != 1 {
		t.Errorf("paid: %+v", got)
	}
	if got := h.show("buyer", cancelled.ID); got.Status != "cancelled" || got.Version != 1 {
		t.Errorf("cancelled, then paid: %+v", got)
	}
	h.refused(http.StatusConflict, []string{"Order is already complete"}, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	h.refused(http.StatusConflict, []string{"Ticket is already reserved"}, "other", "POST", "/api/orders", input{"ticketId": "t"})
}

// TestParallelOrders: of many orders of one ticket at once, one is placed.
func TestParallelOrders(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		const buyers = 50
		h.offer("t")
		var placed, refused atomic.Int32
		var group errgroup.Group
		for i := range buyers {
			group.Go(func() error {
				res, err := h.call(fmt.Sprint("buyer", i), "POST", "/api/orders", input{"ticketId": "t"})
				switch {
				case err != nil:
					return err
				case res.status == http.StatusCreated:
					placed.Add(1)
				case res.status == http.StatusConflict:
					refused.Add(1)
				default:
					return fmt.Errorf("order %d: %v", i, res)
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		if p, r := placed.Load(), refused.Load(); p != 1 || r != buyers-1 {
			t.Errorf("%d placed, %d refused", p, r)
		}
	})
}

// TestParallelEnds: a payment, the buyer and the clock end an order at once;
// one of them does, and everybody is told the same.
func TestParallelEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		const n = 10
		var group errgroup.Group
		ids := numbered(n)
		h.offer(ids...)
		for _, ticket := range ids {
			o := h.place("buyer", ticket)
			group.Go(func() error {
				h.peer.publish(payments.Captured{ID: "p-" + o.ID, OrderID: o.ID, Amount: 1999, Currency: "usd"})
				return nil
			})
			group.Go(func() error {
				res, err := h.call("buyer", "DELETE", "/api/orders/"+o.ID, nil)
				if err == nil && res.status != http.StatusNoContent && res.status != http.StatusConflict {
					err = fmt.Errorf("cancel: %v", res)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		var all []order
		h.want(http.StatusOK, &all, "buyer", "GET", "/api/orders", nil)
		if len(all) != n {
			t.Fatalf("%d orders", len(all))
		}
		for _, o := range all {
			h.eventually("the end of "+o.ID, func() bool { return h.show("buyer", o.ID).Status != "created" })
			o = h.show("buyer", o.ID)
			if o.Version != 1 {
				t.Errorf("%+v", o)
			}
			if o.Status == "complete" {
				await(h.peer, orders.Completed{ID: o.ID, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: 1})
			} else {
				await(h.peer, orders.PaymentRefused{ID: o.ID, PaymentID: "p-" + o.ID})
			}
		}
	}, "ORDER_EXPIRATION=300ms")
}

func TestExpiration(t *testing.T) {
	h := start(t, sqlite(t), "ORDER_EXPIRATION=2s") // time to be paid
	h.offer("t", "t2")
	paid := h.place("buyer", "t")
	h.peer.publish(payments.Captured{ID: "p", OrderID: paid.ID, Amount: 1999, Currency: "usd"})
	await(h.peer, orders.Completed{ID: paid.ID, Ticket: orders.TicketRef{ID: "t"}, Version: 1})

	o := h.place("buyer", "t2")
	expired := orders.Cancelled{ID: o.ID, Reason: orders.Expired, Ticket: orders.TicketRef{ID: "t2"}, Version: 1}
	if all := await(h.peer, expired); len(all) != 1 {
		t.Errorf("told: %+v", all)
	}
	expires, err := time.Parse(time.RFC3339, o.ExpiresAt)
	if err != nil || time.Now().Before(expires) {
		t.Errorf("cancelled before %s: %v", o.ExpiresAt, err)
	}
	// The paid order's time was up before.
	if got := h.show("buyer", paid.ID); got.Status != "complete" || got.Version != 1 {
		t.Errorf("paid: %+v", got)
	}
	h.place("other", "t2")
}

// TestExpirationSurvives: the order expires although the process that placed it
// is gone and the broker was away.
func TestExpirationSurvives(t *testing.T) {
	h := start(t, sqlite(t), "ORDER_EXPIRATION=500ms")
	h.offer("t")
	o := h.place("buyer", "t")
	h.stop()
	h.broker.Disconnect()
	h.boot()
	await(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.Expired, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
}

// TestTicketDeleted cancels the order that holds the ticket, unless it is paid.
func TestTicketDeleted(t *testing.T) {
	h := start(t, sqlite(t))
	h.offer("t", "paid", "free")
	o, paid := h.place("buyer", "t"), h.place("buyer", "paid")
	h.peer.publish(payments.Captured{ID: "p", OrderID: paid.ID, Amount: 1999, Currency: "usd"})
	await(h.peer, orders.Completed{ID: paid.ID, Ticket: orders.TicketRef{ID: "paid"}, Version: 1})

	h.peer.publish(tickets.Deleted{ID: "free", Version: 1}, tickets.Deleted{ID: "paid", Version: 1}, tickets.Deleted{ID: "t", Version: 1})
	await(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.TicketDeleted, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	if got := h.show("buyer", paid.ID); got.Status != "complete" {
		t.Errorf("paid: %+v", got)
	}
	for _, id := range []string{"t", "paid", "free"} {
		h.refused(http.StatusNotFound, nil, "other", "POST", "/api/orders", input{"ticketId": id})
	}
}

// TestTicketDeletedMeanwhile: however an order and the news that its ticket is
// deleted meet, no order of a deleted ticket stays.
func TestTicketDeletedMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		const n = 20
		ids := numbered(n)
		h.offer(ids...)
		placed := make(chan order, n)
		var group errgroup.Group
		for _, ticket := range ids {
			group.Go(func() error {
				h.peer.publish(tickets.Deleted{ID: ticket, Version: 1})
				return nil
			})
			group.Go(func() error {
				res, err := h.call("buyer", "POST", "/api/orders", input{"ticketId": ticket})
				switch {
				case err != nil:
					return err
				case res.status == http.StatusNotFound:
					return nil
				case res.status != http.StatusCreated:
					return fmt.Errorf("order of %s: %v", ticket, res)
				}
				var o order
				err = json.Unmarshal(res.body, &o)
				placed <- o
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		close(placed)
		for o := range placed {
			await(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.TicketDeleted, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: 1})
		}
	})
}

func TestList(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		offered := numbered(6)
		h.offer(offered...)
		var ids []string
		for _, ticket := range offered[:5] {
			ids = append(ids, h.place("buyer", ticket).ID)
		}
		h.want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+ids[3], nil)
		h.place("other", offered[5])
		path := "/api/orders?limit=2"
		for i, want := range [][]int{{4, 3}, {2, 1}, {0}} {
			var page []order
			res := h.want(http.StatusOK, &page, "buyer", "GET", path, nil)
			var found []int
			for _, o := range page {
				found = append(found, slices.Index(ids, o.ID))
			}
			link := res.header.Get("Link")
			if !slices.Equal(found, want) || (link != "") != (i < 2) {
				t.Errorf("page %d: %v, link %q; want %v", i, found, link, want)
			}
			path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		}
		for _, query := range []string{"limit=0", "limit=201", "limit=x", "cursor=x"} {
			h.refused(http.StatusUnprocessableEntity, nil, "buyer", "GET", "/api/orders?"+query, nil)
		}
		if res := h.want(http.StatusOK, nil, "nobody", "GET", "/api/orders", nil); strings.TrimSpace(string(res.body)) != "[]" {
			t.Errorf("no orders: %v", res)
		}
	})
}

// TestNoTime: an order that would hold its ticket for no time is a mistake of
// the configuration.
func TestNoTime(t *testing.T) {
	err := framework.Run(t.Context(), name, service.New, framework.Options{
		Environ: []string{"DATABASE_URL=" + sqlite(t), "ADMIN_ADDR=127.0.0.1:0", "ORDER_EXPIRATION=0s"},
	})
	if err == nil || !strings.Contains(err.Error(), "ORDER_EXPIRATION") {
		t.Errorf("started: %v", err)
	}
}
