package service_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/servicetest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/tickets"
	"github.com/turnstile-go/turnstile/services/tickets/service"
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
	h := &harness{Service: servicetest.Start(t, "tickets", service.Assemble, on, environ...), t: t}
	h.peer = eventtest.NewPeer(t, h.Broker, orders.Created{}, orders.Cancelled{}, orders.Completed{})
	eventtest.Hear[tickets.Created](h.peer)
	eventtest.Hear[tickets.Updated](h.peer)
	eventtest.Hear[tickets.Deleted](h.peer)
	h.peer.Start()
	return h
}

// onBoth runs a test on each kind of database.
func onBoth(t *testing.T, test func(t *testing.T, h *harness), environ ...string) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) { test(t, start(t, on, environ...)) })
}

type ticket struct {
	ID      string      `json:"id"`
	Title   string      `json:"title"`
	Price   json.Number `json:"price"`
	UserID  string      `json:"userId"`
	Version int64       `json:"version"`
	OrderID *string     `json:"orderId"`
}

type input map[string]any

func (h *harness) newTicket(title string) (t ticket) {
	h.t.Helper()
	h.Want(http.StatusCreated, &t, "seller", "POST", "/api/tickets", input{"title": title, "price": 19.99})
	return t
}

func TestCreate(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	for body, price := range map[string]string{
		`{"title":"Concert","price":19.99}`:                               "19.99",
		`{"title":"Concert","price":"19.990"}`:                            "19.99",
		`{"title":"Concert","price":"1e3"}`:                               "1000",
		`{"title":"Concert","price":0.1,"userId":"x","PRICE":5,"id":"y"}`: "0.1",
		`{"title":"Concert","price":1000000}`:                             "1000000",
	} {
		var got ticket
		res := h.Want(http.StatusCreated, &got, "seller", "POST", "/api/tickets", body)
		if got.ID == "" || got.Title != "Concert" || string(got.Price) != price || got.UserID != "seller" || got.Version != 0 || got.OrderID != nil || res.Header.Get("ETag") != `"0"` {
			t.Errorf("%s: %v, %v", body, res, res.Header)
		}
		var shown ticket
		h.Want(http.StatusOK, &shown, "", "GET", "/api/tickets/"+got.ID, nil)
		if shown != got {
			t.Errorf("created %+v, shown %+v", got, shown)
		}
	}

	const noTitle, noPrice = "Title is required", "Price must be greater than 0"
	for body, messages := range map[string][]string{
		`{}`:                               {noTitle, noPrice},
		`{"title":" ","price":0}`:          {noTitle, noPrice},
		`{"title":7,"price":-1}`:           {noTitle, noPrice},
		`{"title":"a","price":null}`:       {noPrice},
		`{"title":"a","price":"NaN"}`:      {noPrice},
		`{"title":"a","price":true}`:       {noPrice},
		`{"title":"a","price":[1]}`:        {noPrice},
		`{"Title":"a","price":1}`:          {noTitle},
		`{"title":"a","price":1.001}`:      {"Price must have at most two decimal places"},
		`{"title":"a","price":1e400}`:      {"Price must be at most 1000000"},
		`{"title":"a","price":1000000.01}`: {"Price must be at most 1000000"},
		`{"title":"` + strings.Repeat("ü", 201) + `","price":"x"}`: {"Title must be at most 200 characters", noPrice},
		`{"title":"a\u0000b","price":1}`:                           nil,
		``:                                                         nil,
		`[]`:                                                       nil,
	} {
		h.Refused(http.StatusUnprocessableEntity, messages, "seller", "POST", "/api/tickets", body)
	}
	h.Refused(http.StatusBadRequest, nil, "seller", "POST", "/api/tickets", `{"title":`)
	h.Refused(http.StatusUnauthorized, nil, "", "POST", "/api/tickets", `{"title":`)
}

// TestRepeatedOffer: a client that did not hear the answer asks again, and gets it.
func TestRepeatedOffer(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		var first, again ticket
		body := input{"title": "Concert", "price": 19.99}
		a := h.Want(http.StatusCreated, &first, "seller", "POST", "/api/tickets", body, "Idempotency-Key", "k")
		b := h.Want(http.StatusCreated, &again, "seller", "POST", "/api/tickets", body, "Idempotency-Key", "k")
		if again != first || string(a.Body) != string(b.Body) {
			t.Errorf("offered %+v, and when asked again %+v", first, again)
		}
		if got, want := b.Header.Get("Location"), "/api/tickets/"+first.ID; got != want || b.Header.Get("ETag") != `"0"` {
			t.Errorf("Location is %q, want %q; ETag is %s", got, want, b.Header.Get("ETag"))
		}
		h.Want(http.StatusNotModified, nil, "", "GET", "/api/tickets/"+first.ID, nil, "If-None-Match", `"0"`)
		var mine []ticket
		h.Want(http.StatusOK, &mine, "seller", "GET", "/api/tickets/mine", nil)
		if len(mine) != 1 {
			t.Errorf("%d tickets are offered", len(mine))
		}
	})
}

// TestChecksInOrder: session, body, existence, ownership, state, If-Match.
func TestChecksInOrder(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	tk := h.newTicket("Concert")
	path, unknown := "/api/tickets/"+tk.ID, "/api/tickets/00000000-0000-7000-8000-000000000000"
	good, bad := input{"title": "b", "price": 1}, input{"title": "", "price": 1}

	h.Refused(http.StatusUnauthorized, nil, "", "PUT", unknown, bad)
	h.Refused(http.StatusUnauthorized, nil, "", "DELETE", unknown, nil)
	h.Refused(http.StatusUnauthorized, nil, "", "GET", "/api/tickets/mine", nil)
	h.Refused(http.StatusUnprocessableEntity, []string{"Title is required"}, "buyer", "PUT", unknown, bad)
	for _, id := range []string{unknown, "/api/tickets/malformed", "/api/tickets/%00", "/api/tickets/%ff"} {
		h.Refused(http.StatusNotFound, nil, "", "GET", id, nil)
		h.Refused(http.StatusNotFound, nil, "buyer", "PUT", id, good)
		h.Refused(http.StatusNotFound, nil, "buyer", "DELETE", id, nil)
	}

	h.peer.Publish(orders.Created{ID: "o", UserID: "buyer", Ticket: orders.Ticket{ID: tk.ID}})
	eventtest.AwaitEqual(h.peer, tickets.Updated{ID: tk.ID, Title: "Concert", Price: 1999, UserID: "seller", Version: 1, OrderID: "o"})
	h.Refused(http.StatusForbidden, nil, "buyer", "PUT", path, good)
	h.Refused(http.StatusForbidden, nil, "buyer", "DELETE", path, nil)
	h.Refused(http.StatusConflict, []string{"Cannot edit a reserved ticket"}, "seller", "PUT", path, good, "If-Match", `"0"`)
	h.Refused(http.StatusConflict, []string{"Cannot delete a reserved ticket"}, "seller", "DELETE", path, nil)
}

func TestEdit(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	tk := h.newTicket("Concert")
	path := "/api/tickets/" + tk.ID
	for _, step := range []struct {
		title, ifMatch string
		status         int
		version        int64
	}{
		{"Concert", "", http.StatusOK, 0}, // nothing changes
		{"Opera", "", http.StatusOK, 1},
		{"Ballet", `"0"`, http.StatusPreconditionFailed, 1},
		{"Ballet", `"1"`, http.StatusOK, 2},
		{"Ballet", `"1"`, http.StatusPreconditionFailed, 2},
		{"Circus", `"7", "2"`, http.StatusOK, 3},
		{"Zoo", `*`, http.StatusOK, 4},
		{"Park", `W/"4"`, http.StatusPreconditionFailed, 4},
	} {
		var headers []string
		if step.ifMatch != "" {
			headers = []string{"If-Match", step.ifMatch}
		}
		res := h.Want(step.status, nil, "seller", "PUT", path, input{"title": step.title, "price": "19.99"}, headers...)
		if etag := fmt.Sprintf(`"%d"`, step.version); step.status == http.StatusOK && res.Header.Get("ETag") != etag {
			t.Errorf("%+v: ETag %s", step, res.Header.Get("ETag"))
		}
		var got ticket
		h.Want(http.StatusOK, &got, "", "GET", path, nil)
		if got.Version != step.version {
			t.Errorf("%+v: %+v", step, got)
		}
	}
	all := eventtest.AwaitEqual(h.peer, tickets.Updated{ID: tk.ID, Title: "Zoo", Price: 1999, UserID: "seller", Version: 4})
	var titles []string
	for i, u := range all {
		titles = append(titles, u.Title)
		if u.Version != int64(i+1) {
			t.Errorf("event %d: %+v", i, u)
		}
	}
	if want := []string{"Opera", "Ballet", "Circus", "Zoo"}; !slices.Equal(titles, want) {
		t.Errorf("events tell of %v, want %v", titles, want)
	}

	h.Refused(http.StatusPreconditionFailed, nil, "seller", "DELETE", path, nil, "If-Match", `"3"`)
	h.Want(http.StatusNoContent, nil, "seller", "DELETE", path, nil, "If-Match", `"4"`)
	h.Refused(http.StatusNotFound, nil, "seller", "DELETE", path, nil)
	h.Refused(http.StatusNotFound, nil, "", "GET", path, nil)
	eventtest.AwaitEqual(h.peer, tickets.Deleted{ID: tk.ID, Version: 5})
}

// TestParallelEdits: versions never repeat or skip, not in answers and not in
// events, whoever edits at once.
func TestParallelEdits(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		const edits = 30
		tk := h.newTicket("Concert")
		versions := make(chan int64, edits)
		var group errgroup.Group
		for i := range edits {
			group.Go(func() error {
				res, err := h.Send(t.Context(), "seller", "PUT", "/api/tickets/"+tk.ID, input{"title": fmt.Sprint("Concert ", i), "price": 5})
				if err != nil {
					return err
				}
				var got ticket
				if err := json.Unmarshal(res.Body, &got); err != nil || res.Status != http.StatusOK || got.Title != fmt.Sprint("Concert ", i) {
					return fmt.Errorf("edit %d: %v, %w", i, res, err)
				}
				versions <- got.Version
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		close(versions)
		var got, want []int64
		for v := range versions {
			got, want = append(got, v), append(want, int64(len(got)+1))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("versions %v", got)
		}
		var last ticket
		h.Want(http.StatusOK, &last, "", "GET", "/api/tickets/"+tk.ID, nil)
		all := eventtest.AwaitEqual(h.peer, tickets.Updated{ID: tk.ID, Title: last.Title, Price: 500, UserID: "seller", Version: edits})
		for i, u := range all {
			if u.Version != int64(i+1) {
				t.Errorf("event %d has version %d", i, u.Version)
			}
		}
	})
}

func TestLists(t *testing.T) {
	onBoth(t, func(t *testing.T, h *harness) {
		var ids []string
		for _, title := range []string{"Concert A", "Ἀχιλλεύς", "CONCERT B", "100%_!", "concert c"} {
			ids = append(ids, h.newTicket(title).ID)
		}
		h.peer.Publish(orders.Created{ID: "o", UserID: "buyer", Ticket: orders.Ticket{ID: ids[2]}})
		eventtest.AwaitEqual(h.peer, tickets.Updated{ID: ids[2], Title: "CONCERT B", Price: 1999, UserID: "seller", Version: 1, OrderID: "o"})

		list := func(user, path string) (found []int, next string) {
			t.Helper()
			var page []ticket
			res := h.Want(http.StatusOK, &page, user, "GET", path, nil)
			for _, tk := range page {
				found = append(found, slices.Index(ids, tk.ID))
			}
			if page == nil {
				t.Errorf("%s: %v is no list", path, res)
			}
			link := res.Header.Get("Link")
			if link == "" {
				return found, ""
			}
			next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
			if !ok {
				t.Fatalf("%s: link %q", path, link)
			}
			return found, next
		}
		for _, test := range []struct {
			user, path string
			pages      [][]int
		}{
			{"", "/api/tickets", [][]int{{4, 3, 1, 0}}},
			{"", "/api/tickets?limit=3", [][]int{{4, 3, 1}, {0}}},
			{"", "/api/tickets?limit=2", [][]int{{4, 3}, {1, 0}}},
			{"", "/api/tickets?limit=1&q=CONCERT", [][]int{{4}, {0}}},
			{"", "/api/tickets?q=" + url.QueryEscape("ἀΧΙΛΛΕΎΣ"), [][]int{{1}}},
			{"", "/api/tickets?q=" + url.QueryEscape("%_!"), [][]int{{3}}},
			{"", "/api/tickets?q=" + url.QueryEscape("c_n"), [][]int{nil}},
			{"seller", "/api/tickets/mine?limit=3", [][]int{{4, 3, 2}, {1, 0}}},
			{"buyer", "/api/tickets/mine", [][]int{nil}},
		} {
			path := test.path
			for i, want := range test.pages {
				found, next := list(test.user, path)
				if !slices.Equal(found, want) || (next != "") != (i < len(test.pages)-1) {
					t.Errorf("%s, page %d: %v, next %q; want %v", test.path, i, found, next, want)
				}
				path = next
			}
		}
		for _, query := range []string{"limit=0", "limit=201", "limit=x", "cursor=x", "cursor=Ing", "limit=1e1"} {
			h.Refused(http.StatusUnprocessableEntity, nil, "", "GET", "/api/tickets?"+query, nil)
		}
	})
}

// TestOrders follows what the events of orders do to a ticket, also in the
// orders in which the events of two orders can arrive.
func TestOrders(t *testing.T) {
	type does = func(ticket, order string) event.Event
	var created does = func(ticket, order string) event.Event {
		return orders.Created{ID: order, UserID: "buyer", Ticket: orders.Ticket{ID: ticket}}
	}
	var cancelled does = func(ticket, order string) event.Event {
		return orders.Cancelled{ID: order, Reason: orders.ByUser, Ticket: orders.TicketRef{ID: ticket}, Version: 1}
	}
	var completed does = func(ticket, order string) event.Event {
		return orders.Completed{ID: order, Ticket: orders.TicketRef{ID: ticket}, Version: 1}
	}
	type step struct {
		does  does
		order string
		holds []string // whom the ticket.updated say that follow
	}
	for name, steps := range map[string][]step{
		"sold":      {{created, "a", []string{"a"}}, {completed, "a", []string{"a"}}},
		"cancelled": {{created, "a", []string{"a"}}, {cancelled, "a", []string{""}}, {created, "b", []string{"b"}}},
		"the second order is heard of before the first one's end": {
			{created, "a", []string{"a"}}, {created, "b", nil}, {cancelled, "a", []string{"", "b"}}, {completed, "b", []string{"b"}},
		},
		"the second order is paid before the first one's end is heard of": {
			{created, "a", []string{"a"}}, {created, "b", nil}, {completed, "b", []string{"b"}}, {cancelled, "a", nil},
		},
		"the first order is heard of last": {
			{created, "b", []string{"b"}}, {created, "a", nil}, {cancelled, "a", nil}, {completed, "b", []string{"b"}},
		},
		"an order that waited is cancelled": {
			{created, "a", []string{"a"}}, {created, "b", nil}, {cancelled, "b", nil}, {cancelled, "a", []string{""}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, servicetest.SQLite(t))
			tk := h.newTicket("Concert")
			// What another ticket goes through shows that an event without
			// effect was handled: this listener handles what arrives in order.
			other := h.newTicket("Opera")
			var version, otherVersion int64
			holder := ""
			for i, s := range steps {
				h.peer.Publish(s.does(tk.ID, s.order+name))
				for _, holds := range s.holds {
					if holder = holds; holds != "" {
						holder += name
					}
					version++
					want := tickets.Updated{ID: tk.ID, Title: "Concert", Price: 1999, UserID: "seller", Version: version, OrderID: holder}
					if all := eventtest.AwaitEqual(h.peer, want); int64(len(all)) < version || all[version-1] != want {
						t.Fatalf("step %d: %+v, want %+v", i, all, want)
					}
				}
				h.peer.Publish(orders.Created{ID: fmt.Sprint("other", i), Ticket: orders.Ticket{ID: other.ID}},
					orders.Cancelled{ID: fmt.Sprint("other", i), Ticket: orders.TicketRef{ID: other.ID}, Version: 1})
				otherVersion += 2
				eventtest.AwaitEqual(h.peer, tickets.Updated{ID: other.ID, Title: "Opera", Price: 1999, UserID: "seller", Version: otherVersion})
				var got ticket
				h.Want(http.StatusOK, &got, "", "GET", "/api/tickets/"+tk.ID, nil)
				held := ""
				if got.OrderID != nil {
					held = *got.OrderID
				}
				if got.Version != version || held != holder {
					t.Fatalf("step %d: %+v; want version %d held by %q", i, got, version, holder)
				}
			}
		})
	}
}

// TestSoldIsFinal: a sold ticket is never listed, edited or deleted.
func TestSoldIsFinal(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	tk := h.newTicket("Concert")
	h.peer.Publish(
		orders.Created{ID: "o", UserID: "buyer", Ticket: orders.Ticket{ID: tk.ID}},
		orders.Completed{ID: "o", Ticket: orders.TicketRef{ID: tk.ID}, Version: 1},
	)
	eventtest.AwaitEqual(h.peer, tickets.Updated{ID: tk.ID, Title: "Concert", Price: 1999, UserID: "seller", Version: 2, OrderID: "o"})
	h.Refused(http.StatusConflict, nil, "seller", "PUT", "/api/tickets/"+tk.ID, input{"title": "b", "price": 1})
	h.Refused(http.StatusConflict, nil, "seller", "DELETE", "/api/tickets/"+tk.ID, nil)
	var listed []ticket
	if h.Want(http.StatusOK, &listed, "", "GET", "/api/tickets", nil); len(listed) > 0 {
		t.Errorf("listed: %+v", listed)
	}
	if h.Want(http.StatusOK, &listed, "seller", "GET", "/api/tickets/mine", nil); len(listed) != 1 {
		t.Errorf("the seller's: %+v", listed)
	}
}

// TestOrderOfDeletedTicket: orders that come too late stop nothing.
func TestOrderOfDeletedTicket(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	gone, tk := h.newTicket("Gone"), h.newTicket("Concert")
	h.Want(http.StatusNoContent, nil, "seller", "DELETE", "/api/tickets/"+gone.ID, nil)
	h.peer.Publish(
		orders.Created{ID: "a", Ticket: orders.Ticket{ID: gone.ID}},
		orders.Completed{ID: "a", Ticket: orders.TicketRef{ID: gone.ID}, Version: 1},
		orders.Cancelled{ID: "b", Ticket: orders.TicketRef{ID: gone.ID}, Version: 1},
		orders.Created{ID: "a2", Ticket: orders.Ticket{ID: tk.ID}},
	)
	eventtest.AwaitEqual(h.peer, tickets.Updated{ID: tk.ID, Title: "Concert", Price: 1999, UserID: "seller", Version: 1, OrderID: "a2"})
	h.Refused(http.StatusNotFound, nil, "", "GET", "/api/tickets/"+gone.ID, nil)
}

func TestDescription(t *testing.T) {
	h := start(t, servicetest.SQLite(t))
	var document struct {
		OpenAPI string
		Paths   map[string]any
	}
	h.Want(http.StatusOK, &document, "", "GET", "/api/tickets/openapi.json", nil)
	if !strings.HasPrefix(document.OpenAPI, "3.1") || len(document.Paths) != 3 {
		t.Errorf("%+v", document)
	}
	h.Want(http.StatusOK, nil, "", "GET", "/api/tickets/docs", nil)
}

func TestRevokedSession(t *testing.T) {
	servicetest.Each(t, func(t *testing.T, on servicetest.Database) {
		start(t, on).HonorsRevocation("/api/tickets/mine")
	})
}
