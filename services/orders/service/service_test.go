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
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/orders/service"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/tickets"
)

func TestMain(m *testing.M) { servicetest.Main(m) }

// harness is the service, whole, with a peer in the place of all other services.
type harness struct {
	*servicetest.Service
	t    *testing.T
	peer *eventtest.Peer
}

func start(t *testing.T, on servicetest.Database, environ ...string) *harness {
	t.Helper()
	h := &harness{Service: servicetest.Start(t, "orders", service.Assemble, on, environ...), t: t}
	h.peer = eventtest.NewPeer(t, h.Broker, tickets.Created{}, tickets.Updated{}, tickets.Deleted{}, payments.Captured{})
	eventtest.Hear[orders.Created](h.peer)
	eventtest.Hear[orders.Cancelled](h.peer)
	eventtest.Hear[orders.Completed](h.peer)
	eventtest.Hear[orders.PaymentRefused](h.peer)
	h.peer.Start()
	return h
}

// onBoth runs a test on each kind of database.
func onBoth(t *testing.T, test func(t *testing.T, h *harness), environ ...string) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) { test(t, start(t, on, environ...)) })
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
	h.peer.Publish(events...)
	for _, id := range ids {
		h.Eventually(func() error {
			res, err := h.Send(h.t.Context(), "seller", "POST", "/api/orders", input{"ticketId": id})
			if err == nil && res.Status != http.StatusConflict {
				err = fmt.Errorf("ticket %s is not known: %v", id, res)
			}
			return err
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

func (h *harness) place(user, ticket string) (o order) {
	h.t.Helper()
	h.Want(http.StatusCreated, &o, user, "POST", "/api/orders", input{"ticketId": ticket})
	return o
}

func (h *harness) show(user, id string) (o order) {
	h.t.Helper()
	h.Want(http.StatusOK, &o, user, "GET", "/api/orders/"+id, nil)
	return o
}

func TestOrder(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
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
	eventtest.AwaitEqual(h.peer, orders.Created{ID: o.ID, UserID: "buyer", ExpiresAt: expires, Ticket: orders.Ticket{ID: "t", Price: 1999}})

	// What was shown when ordering stays, whatever becomes of the ticket.
	h.peer.Publish(tickets.Updated{ID: "t", Title: "Opera", Price: 5000, UserID: "seller", Version: 1})
	h.offer("t2") // after the update, since one worker takes events as they come
	if shown := h.show("buyer", o.ID); shown != o {
		t.Errorf("after the edit of the ticket: %+v, want %+v", shown, o)
	}
	h.Want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	if next := h.place("buyer", "t"); next.Ticket.Title != "Opera" || next.Ticket.Price != "50" {
		t.Errorf("ordered after the edit: %+v", next)
	}
}

// TestRepeatedOrder: a client that did not hear the answer asks again, and gets it.
func TestRepeatedOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		h.offer("t", "t2")
		var first, again order
		const key = "Idempotency-Key"
		a := h.Want(http.StatusCreated, &first, "buyer", "POST", "/api/orders", input{"ticketId": "t"}, key, "k")
		b := h.Want(http.StatusCreated, &again, "buyer", "POST", "/api/orders", input{"ticketId": "t"}, key, "k")
		if again != first || string(a.Body) != string(b.Body) {
			t.Errorf("ordered %+v, and when asked again %+v", first, again)
		}
		if got, want := b.Header.Get("Location"), "/api/orders/"+first.ID; got != want || b.Header.Get("ETag") != `"0"` {
			t.Errorf("Location is %q, want %q; ETag is %s", got, want, b.Header.Get("ETag"))
		}
		h.Refused(http.StatusUnprocessableEntity, nil, "buyer", "POST", "/api/orders", input{"ticketId": "t2"}, key, "k")
		h.Refused(http.StatusConflict, nil, "buyer", "POST", "/api/orders", input{"ticketId": "t"}, key, "another")
		h.Refused(http.StatusConflict, nil, "other", "POST", "/api/orders", input{"ticketId": "t"}, key, "k")

		// A failure is not kept: when the ticket is free again, the same request succeeds.
		h.Want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+first.ID, nil)
		h.Want(http.StatusCreated, nil, "other", "POST", "/api/orders", input{"ticketId": "t"}, key, "k")
		eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: first.ID, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	})
}

// TestStaleOrder: what a client says of the order's version counts as long as the order can still be cancelled.
func TestStaleOrder(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.offer("t")
	path := "/api/orders/" + h.place("buyer", "t").ID
	if got := h.Want(http.StatusOK, nil, "buyer", "GET", path, nil).Header.Get("ETag"); got != `"0"` {
		t.Errorf("ETag is %s", got)
	}
	h.Want(http.StatusNotModified, nil, "buyer", "GET", path, nil, "If-None-Match", `"0"`)
	h.Refused(http.StatusPreconditionFailed, nil, "buyer", "DELETE", path, nil, "If-Match", `"1"`)
	h.Want(http.StatusNoContent, nil, "buyer", "DELETE", path, nil, "If-Match", `"0"`)
	h.Want(http.StatusNoContent, nil, "buyer", "DELETE", path, nil, "If-Match", `"0"`) // it has happened already
}

func TestChecksInOrder(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.offer("t")
	good, bad := input{"ticketId": "t"}, input{"ticketId": " "}
	h.Refused(http.StatusUnauthorized, nil, "", "POST", "/api/orders", bad)
	for _, body := range []any{bad, input{}, input{"ticketId": 7}, input{"ticketId": nil}, input{"TicketID": "t"}} {
		h.Refused(http.StatusUnprocessableEntity, []string{"TicketId must be provided"}, "buyer", "POST", "/api/orders", body)
	}
	h.Refused(http.StatusNotFound, []string{"Ticket not found"}, "buyer", "POST", "/api/orders", input{"ticketId": "unknown"})
	h.Refused(http.StatusConflict, []string{"You cannot order your own ticket"}, "seller", "POST", "/api/orders", good)

	o := h.place("buyer", "t")
	for _, user := range []string{"buyer", "other"} {
		h.Refused(http.StatusConflict, []string{"Ticket is already reserved"}, user, "POST", "/api/orders", good)
	}
	for _, method := range []string{"GET", "DELETE"} {
		h.Refused(http.StatusUnauthorized, nil, "", method, "/api/orders/"+o.ID, nil)
		h.Refused(http.StatusForbidden, nil, "other", method, "/api/orders/"+o.ID, nil)
		for _, id := range []string{"malformed", "00000000-0000-7000-8000-000000000000", "%00"} {
			h.Refused(http.StatusNotFound, nil, "buyer", method, "/api/orders/"+id, nil)
		}
	}
	h.Refused(http.StatusUnauthorized, nil, "", "GET", "/api/orders", nil)
}

func TestCancel(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.offer("t")
	o := h.place("buyer", "t")
	for range 3 {
		h.Want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	}
	if got := h.show("buyer", o.ID); got.Status != "cancelled" || got.Version != 1 {
		t.Errorf("cancelled: %+v", got)
	}
	// The next order's events are sent after all of this one's.
	next := h.place("other", "t")
	h.Want(http.StatusNoContent, nil, "other", "DELETE", "/api/orders/"+next.ID, nil)
	eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: next.ID, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	if all := eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: "t"}, Version: 1}); len(all) != 1 {
		t.Errorf("cancelled thrice, told %d times", len(all))
	}
}

// TestPayment: the first payment completes an order, once; any other, and one
// for a cancelled order, is refused so that the money goes back.
func TestPayment(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.offer("t", "t2")
	o, cancelled := h.place("buyer", "t"), h.place("buyer", "t2")
	h.Want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+cancelled.ID, nil)

	h.peer.Publish(
		payments.Captured{ID: "nowhere", OrderID: "unknown", Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p1", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p1", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p2", OrderID: o.ID, Amount: 1999, Currency: "usd"},
		payments.Captured{ID: "p3", OrderID: cancelled.ID, Amount: 1999, Currency: "usd"},
	)
	eventtest.AwaitEqual(h.peer, orders.PaymentRefused{ID: cancelled.ID, PaymentID: "p3"})
	if all := eventtest.AwaitEqual(h.peer, orders.PaymentRefused{ID: o.ID, PaymentID: "p2"}); len(all) != 1 {
		t.Errorf("refused: %+v", all)
	}
	if all := eventtest.AwaitEqual(h.peer, orders.Completed{ID: o.ID, Ticket: orders.TicketRef{ID: "t"}, Version: 1}); len(all) != 1 {
		t.Errorf("completed %d times", len(all))
	}
	if got := h.show("buyer", o.ID); got.Status != "complete" || got.Version != 1 {
		t.Errorf("paid: %+v", got)
	}
	if got := h.show("buyer", cancelled.ID); got.Status != "cancelled" || got.Version != 1 {
		t.Errorf("cancelled, then paid: %+v", got)
	}
	h.Refused(http.StatusConflict, []string{"Order is already complete"}, "buyer", "DELETE", "/api/orders/"+o.ID, nil)
	h.Refused(http.StatusConflict, []string{"Ticket is already reserved"}, "other", "POST", "/api/orders", input{"ticketId": "t"})
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
				res, err := h.Send(t.Context(), fmt.Sprint("buyer", i), "POST", "/api/orders", input{"ticketId": "t"})
				switch {
				case err != nil:
					return err
				case res.Status == http.StatusCreated:
					placed.Add(1)
				case res.Status == http.StatusConflict:
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
				h.peer.Publish(payments.Captured{ID: "p-" + o.ID, OrderID: o.ID, Amount: 1999, Currency: "usd"})
				return nil
			})
			group.Go(func() error {
				res, err := h.Send(t.Context(), "buyer", "DELETE", "/api/orders/"+o.ID, nil)
				if err == nil && res.Status != http.StatusNoContent && res.Status != http.StatusConflict {
					err = fmt.Errorf("cancel: %v", res)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		var all []order
		h.Want(http.StatusOK, &all, "buyer", "GET", "/api/orders", nil)
		if len(all) != n {
			t.Fatalf("%d orders", len(all))
		}
		for _, o := range all {
			h.Eventually(func() error {
				if o = h.show("buyer", o.ID); o.Status == "created" {
					return fmt.Errorf("order %s has not ended", o.ID)
				}
				return nil
			})
			if o.Version != 1 {
				t.Errorf("%+v", o)
			}
			if o.Status == "complete" {
				eventtest.AwaitEqual(h.peer, orders.Completed{ID: o.ID, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: 1})
			} else {
				eventtest.AwaitEqual(h.peer, orders.PaymentRefused{ID: o.ID, PaymentID: "p-" + o.ID})
			}
		}
	}, "ORDER_EXPIRATION=300ms")
}

func TestExpiration(t *testing.T) {
	h := start(t, servicetest.SQLite(t), "ORDER_EXPIRATION=6s") // time to be paid
	h.offer("t", "t2")
	paid := h.place("buyer", "t")
	h.peer.Publish(payments.Captured{ID: "p", OrderID: paid.ID, Amount: 1999, Currency: "usd"})
	eventtest.AwaitEqual(h.peer, orders.Completed{ID: paid.ID, Ticket: orders.TicketRef{ID: "t"}, Version: 1})

	o := h.place("buyer", "t2")
	expired := orders.Cancelled{ID: o.ID, Reason: orders.Expired, Ticket: orders.TicketRef{ID: "t2"}, Version: 1}
	if all := eventtest.AwaitEqual(h.peer, expired); len(all) != 1 {
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
	h := start(t, servicetest.SQLite(t), "ORDER_EXPIRATION=500ms")
	h.offer("t")
	o := h.place("buyer", "t")
	h.Stop()
	h.Broker.Disconnect()
	h.Boot()
	eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.Expired, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
}

// TestTicketDeleted cancels the order that holds the ticket, unless it is paid.
func TestTicketDeleted(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	h.offer("t", "paid", "free")
	o, paid := h.place("buyer", "t"), h.place("buyer", "paid")
	h.peer.Publish(payments.Captured{ID: "p", OrderID: paid.ID, Amount: 1999, Currency: "usd"})
	eventtest.AwaitEqual(h.peer, orders.Completed{ID: paid.ID, Ticket: orders.TicketRef{ID: "paid"}, Version: 1})

	h.peer.Publish(tickets.Deleted{ID: "free", Version: 1}, tickets.Deleted{ID: "paid", Version: 1}, tickets.Deleted{ID: "t", Version: 1})
	eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.TicketDeleted, Ticket: orders.TicketRef{ID: "t"}, Version: 1})
	if got := h.show("buyer", paid.ID); got.Status != "complete" {
		t.Errorf("paid: %+v", got)
	}
	for _, id := range []string{"t", "paid", "free"} {
		h.Refused(http.StatusNotFound, nil, "other", "POST", "/api/orders", input{"ticketId": id})
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
				h.peer.Publish(tickets.Deleted{ID: ticket, Version: 1})
				return nil
			})
			group.Go(func() error {
				res, err := h.Send(t.Context(), "buyer", "POST", "/api/orders", input{"ticketId": ticket})
				switch {
				case err != nil:
					return err
				case res.Status == http.StatusNotFound:
					return nil
				case res.Status != http.StatusCreated:
					return fmt.Errorf("order of %s: %v", ticket, res)
				}
				var o order
				err = json.Unmarshal(res.Body, &o)
				placed <- o
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		close(placed)
		for o := range placed {
			eventtest.AwaitEqual(h.peer, orders.Cancelled{ID: o.ID, Reason: orders.TicketDeleted, Ticket: orders.TicketRef{ID: o.Ticket.ID}, Version: 1})
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
		h.Want(http.StatusNoContent, nil, "buyer", "DELETE", "/api/orders/"+ids[3], nil)
		h.place("other", offered[5])
		path := "/api/orders?limit=2"
		for i, want := range [][]int{{4, 3}, {2, 1}, {0}} {
			var page []order
			res := h.Want(http.StatusOK, &page, "buyer", "GET", path, nil)
			var found []int
			for _, o := range page {
				found = append(found, slices.Index(ids, o.ID))
			}
			link := res.Header.Get("Link")
			if !slices.Equal(found, want) || (link != "") != (i < 2) {
				t.Errorf("page %d: %v, link %q; want %v", i, found, link, want)
			}
			path = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		}
		for _, query := range []string{"limit=0", "limit=201", "limit=x", "cursor=x"} {
			h.Refused(http.StatusUnprocessableEntity, nil, "buyer", "GET", "/api/orders?"+query, nil)
		}
		if res := h.Want(http.StatusOK, nil, "nobody", "GET", "/api/orders", nil); strings.TrimSpace(string(res.Body)) != "[]" {
			t.Errorf("no orders: %v", res)
		}
	})
}

// TestNoTime: an order that would hold its ticket for no time is a mistake of
// the configuration.
func TestNoTime(t *testing.T) {
	err := framework.Run(t.Context(), "orders", service.New, framework.Options{
		Environ: []string{"DATABASE_URL=" + servicetest.SQLite(t).URL, "ADMIN_ADDR=127.0.0.1:0", "ORDER_EXPIRATION=0s"},
	})
	if err == nil || !strings.Contains(err.Error(), "ORDER_EXPIRATION") {
		t.Errorf("started: %v", err)
	}
}

func TestRevokedSession(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		start(t, on).HonorsRevocation("/api/orders")
	})
}
