package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onEach runs a test on each kind of database, and there on the ledger itself
// and on the same through an admin port.
func onEach(t *testing.T, test func(t *testing.T, open func(service, statements string) *admin.Ledger)) {
	t.Helper()
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		t.Run("database", func(t *testing.T) { test(t, open) })
		t.Run("admin port", func(t *testing.T) {
			test(t, func(service, statements string) *admin.Ledger { return dial(t, open(service, statements)) })
		})
	})
}

// dial puts a ledger behind an admin port.
func dial(t *testing.T, l *admin.Ledger) *admin.Ledger {
	t.Helper()
	return serve(t, admin.Handler(l))
}

// serve opens an admin port.
func serve(t *testing.T, h http.Handler) *admin.Ledger {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	there, err := admin.Dial(t.Context(), server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return there
}

func TestEvents(t *testing.T) {
	onEach(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("tickets", world["tickets"]+`
UPDATE event_outbox SET sent_at = NULL WHERE event_id = 'e3';
INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('tickets', 't2', 'e5', 'expired', 9000, ''), ('tickets', 't1', 'e4', 'expired', 8000, '{}')`)
		if l.Service() != "tickets" {
			t.Errorf("the service is %q", l.Service())
		}
		for _, test := range []struct {
			f    admin.Filter
			want string
		}{
			{admin.Filter{}, "e1 sent, e2 sent, e3 unsent, e4 scheduled, e5 scheduled"},
			{admin.Filter{State: "sent"}, "e1 sent, e2 sent"},
			{admin.Filter{State: "unsent"}, "e3 unsent"},
			{admin.Filter{State: "scheduled"}, "e4 scheduled, e5 scheduled"},
			{admin.Filter{Limit: 2}, "e2 sent, e3 unsent, e4 scheduled, e5 scheduled"},
			{admin.Filter{Limit: 1}, "e3 unsent, e4 scheduled"},
			{admin.Filter{Key: "t1"}, "e1 sent, e2 sent, e4 scheduled"},
			{admin.Filter{Key: "t1", Sequence: 2}, "e2 sent"},
			{admin.Filter{Type: "created"}, "e1 sent, e3 unsent"},
			{admin.Filter{ID: "e4"}, "e4 scheduled"},
			{admin.Filter{Stream: "tickets", Since: time.UnixMicro(2000), State: "sent"}, "e2 sent"},
			{admin.Filter{Stream: "other"}, ""},
			{admin.Filter{Key: "t' OR '1'='1"}, ""},
		} {
			events, err := l.Events(t.Context(), test.f)
			var got []string
			for _, e := range events {
				got = append(got, e.ID+" "+e.State)
			}
			if err != nil || strings.Join(got, ", ") != test.want {
				t.Errorf("%+v: %v, %q, want %q", test.f, err, got, test.want)
			}
		}
		events, err := l.Events(t.Context(), admin.Filter{ID: "e1", Body: true})
		want := []admin.Event{{
			Service: "tickets", Stream: "tickets", Key: "t1", Sequence: 1, ID: "e1", Type: "created", State: "sent",
			At: time.UnixMicro(1000).UTC(), Sent: time.UnixMicro(2000).UTC(), Body: `{"id":"e1"}`,
		}}
		if err != nil || !reflect.DeepEqual(events, want) {
			t.Errorf("%v: %+v, want %+v", err, events, want)
		}
		if _, err := l.Events(t.Context(), admin.Filter{State: "lost"}); err == nil || !strings.Contains(err.Error(), "scheduled, unsent or sent") {
			t.Errorf("a state that there is not: %v", err)
		}
	})
}

// An event that becomes due is always somewhere.
func TestEventsThatBecomeDue(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		const n = 100
		var scheduled strings.Builder
		for i := range n {
			fmt.Fprintf(&scheduled, "INSERT INTO event_scheduled (stream, key, event_id, type, due_at, body) VALUES ('tickets', 't', 'e%d', 'expired', 1, '');\n", i)
		}
		l, db := open("tickets", scheduled.String()), databases["tickets"]
		due := func(i int) error {
			return db.InTx(t.Context(), func(tx *database.Tx) error {
				_, err := tx.ExecContext(t.Context(), fmt.Sprintf(`DELETE FROM event_scheduled WHERE event_id = 'e%d'`, i))
				if err == nil {
					_, err = tx.ExecContext(t.Context(), fmt.Sprintf(`
						INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at) VALUES ('tickets', 't', %d, 'e%d', 'expired', '', 1)`, i+1, i))
				}
				return err
			})
		}
		var moving errgroup.Group
		var moved atomic.Bool
		moving.Go(func() (err error) {
			defer moved.Store(true)
			for i := 0; i < n && err == nil; i++ {
				err = due(i)
			}
			return err
		})
		for last := false; !last && !t.Failed(); {
			last = moved.Load()
			events, err := l.Events(t.Context(), admin.Filter{})
			ids := map[string]bool{}
			for _, e := range events {
				ids[e.ID] = true
			}
			if len(ids) != n || len(events) != n {
				t.Errorf("of %d events there are %d, and %d in all: %v", n, len(ids), len(events), err)
			}
		}
		if err := moving.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// Number 1 of a is dead, and two wait behind it; b waits for number 1; c is
// tried again; d is forked.
const troubled = `
INSERT INTO event_cursor (grp, stream, key, seq, parked) VALUES ('back', 'pings', 'a', 0, 3), ('back', 'pings', 'b', 0, 1), ('back', 'pings', 'c', 4, 1), ('back', 'pings', 'd', 1, 0);
INSERT INTO event_parked (grp, stream, key, seq, state, attempts, due_at, error, body, at) VALUES
  ('back', 'pings', 'a', 1, 'dead', 3, 0, 'no such door', '{"id":"a1","type":"ping"}', 1000),
  ('back', 'pings', 'a', 2, 'early', 0, 0, '', '{"id":"a2"}', 2000),
  ('back', 'pings', 'a', 3, 'early', 0, 0, '', '{"id":"a3"}', 3000),
  ('back', 'pings', 'b', 2, 'early', 0, 0, '', '{"id":"b2"}', 4000),
  ('back', 'pings', 'c', 5, 'retry', 2, 9000, 'busy', '{"id":"c5","type":"ping"}', 5000);
INSERT INTO event_letter (grp, stream, key, seq, kind, error, body, at) VALUES
  ('back', 'pings', 'b', 1, 'gap', 'number 1 has not arrived', '', 4500),
  ('back', 'pings', 'd', 1, 'fork', 'two histories', '{"id":"d1"}', 4600)`

func TestLettersRedriveAndSkip(t *testing.T) {
	onEach(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("back", troubled)
		find := func(f admin.Filter) (all []string) {
			t.Helper()
			letters, err := l.Letters(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range letters {
				all = append(all, fmt.Sprintf("%s %s%d", at.Kind, at.Key, at.Sequence))
			}
			return all
		}
		if got := find(admin.Filter{}); !slices.Equal(got, []string{"dead a1", "gap b1", "fork d1"}) {
			t.Errorf("letters %q", got)
		}
		if got := find(admin.Filter{ID: "d1"}); !slices.Equal(got, []string{"fork d1"}) {
			t.Errorf("by id: %q", got)
		}
		if got := find(admin.Filter{State: "gap", Group: "back"}); !slices.Equal(got, []string{"gap b1"}) {
			t.Errorf("gaps: %q", got)
		}
		letters, err := l.Letters(t.Context(), admin.Filter{State: "dead"})
		want := admin.Letter{Service: "back", Group: "back", Stream: "pings", Key: "a", Sequence: 1, ID: "a1", Kind: "dead", Attempts: 3, Error: "no such door", Body: `{"id":"a1","type":"ping"}`, At: time.UnixMicro(1000).UTC()}
		if err != nil || len(letters) != 1 || letters[0] != want {
			t.Fatalf("%v: %+v, want %+v", err, letters, want)
		}
		at := func(kind, key string, seq int64) admin.Letter {
			return admin.Letter{Group: "back", Stream: "pings", Key: key, Sequence: seq, Kind: kind}
		}
		for name, test := range map[string]struct {
			err  error
			says string
		}{
			"redrive a gap":               {l.Redrive(t.Context(), at("gap", "b", 1)), "only a dead event"},
			"redrive what is early":       {l.Redrive(t.Context(), at("dead", "a", 2)), "it is not dead; the group has applied 0"},
			"redrive the unknown":         {l.Redrive(t.Context(), at("dead", "x", 1)), "group back knows no key x in pings"},
			"skip what is behind":         {l.Skip(t.Context(), at("dead", "a", 2)), "it does not hold its key up"},
			"skip what is to be retried":  {l.Skip(t.Context(), at("dead", "c", 5)), "redriven, or has arrived"},
			"skip a gap that has arrived": {l.Skip(t.Context(), at("gap", "a", 1)), "redriven, or has arrived"},
		} {
			if test.err == nil || !strings.Contains(test.err.Error(), test.says) || !strings.Contains(test.err.Error(), "letter of group back") {
				t.Errorf("%s: %v, want %q", name, test.err, test.says)
			}
		}

		if err := l.Redrive(t.Context(), letters[0]); err != nil {
			t.Fatal(err)
		}
		if err := l.Redrive(t.Context(), letters[0]); err == nil {
			t.Error("one can redrive twice")
		}
		for _, letter := range []admin.Letter{at("gap", "b", 1), at("fork", "d", 1)} {
			if err := l.Skip(t.Context(), letter); err != nil {
				t.Error(err)
			}
		}
		if got := find(admin.Filter{}); len(got) != 0 {
			t.Errorf("letters stay: %q", got)
		}
		parked, err := l.Parked(t.Context(), admin.Filter{})
		if err != nil || len(parked) != 3 {
			t.Fatalf("%v: %+v", err, parked)
		}
		for i, want := range []string{"a 1 retry 0", "b 2 early 0", "c 5 retry 2"} {
			if p := parked[i]; fmt.Sprintf("%s %d %s %d", p.Key, p.Sequence, p.State, p.Attempts) != want {
				t.Errorf("parked %+v, want %s", p, want)
			}
		}
		// It is in the event's history.
		for key, what := range map[string]string{"a": "redriven", "b": "skipped"} {
			paths, err := admin.Trace(t.Context(), []*admin.Ledger{l}, admin.Filter{Key: key, Sequence: 1})
			if err != nil || len(paths) != 1 || !slices.ContainsFunc(paths[0].Steps, func(s admin.Step) bool { return s.What == what }) {
				t.Errorf("%s: %v, %+v", key, err, paths)
			}
		}
	})
}

func TestParked(t *testing.T) {
	at := func(us int64) time.Time { return time.UnixMicro(us).UTC() }
	a := admin.Parked{Service: "back", Group: "back", Stream: "pings", Key: "a", Events: 3, Oldest: at(1000), Sequence: 1, State: "dead", ID: "a1", Type: "ping", Attempts: 3, Error: "no such door"}
	b := admin.Parked{Service: "back", Group: "back", Stream: "pings", Key: "b", Events: 1, Oldest: at(4000), Sequence: 1, State: "missing"}
	c := admin.Parked{Service: "back", Group: "back", Stream: "pings", Key: "c", Events: 1, Oldest: at(5000), Sequence: 5, State: "retry", ID: "c5", Type: "ping", Attempts: 2, Error: "busy", Next: at(9000)}
	onEach(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("back", troubled)
		for _, test := range []struct {
			f    admin.Filter
			want []admin.Parked
		}{
			{admin.Filter{}, []admin.Parked{a, b, c}},
			{admin.Filter{Group: "back", Stream: "pings", Key: "b"}, []admin.Parked{b}},
			{admin.Filter{State: "retry"}, []admin.Parked{c}},
			{admin.Filter{ID: "a1"}, []admin.Parked{a}},
			{admin.Filter{Limit: 2}, []admin.Parked{a, b}},
			{admin.Filter{Group: "other"}, []admin.Parked{}},
		} {
			if got, err := l.Parked(t.Context(), test.f); err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("%+v: %v\n%+v\nwant\n%+v", test.f, err, got, test.want)
			}
		}
	})
}

// The cross-service views are the same over the admin ports.
func TestViewsOverTheAdminPort(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		here := moving(open, "tickets:stan orders:jetstream+stan payments:stan", "payments: UPDATE event_cursor SET seq = 0 WHERE key = 't1'; DELETE FROM event_journal WHERE event_id = 'e3'")
		var there []*admin.Ledger
		for _, l := range here {
			there = append(there, dial(t, l))
		}
		for name, view := range map[string]func([]*admin.Ledger) (any, error){
			"trace":   func(l []*admin.Ledger) (any, error) { return admin.Trace(t.Context(), l, admin.Filter{Key: "t1"}) },
			"lag":     func(l []*admin.Ledger) (any, error) { return admin.Lag(t.Context(), l, admin.Filter{}) },
			"audit":   func(l []*admin.Ledger) (any, error) { return admin.Audit(t.Context(), l, time.Time{}) },
			"brokers": func(l []*admin.Ledger) (any, error) { return admin.Brokers(t.Context(), l, "") },
		} {
			near, err := view(here)
			if err != nil {
				t.Fatal(err)
			}
			far, err := view(there)
			if err != nil || !reflect.DeepEqual(near, far) {
				t.Errorf("%s: %v\n%+v\nover the port\n%+v", name, err, near, far)
			}
		}
	})
}

// Replay marks in chunks and waits for each to be sent; live events go between.
func TestReplay(t *testing.T) {
	const n = 2500
	var statements strings.Builder
	fmt.Fprintf(&statements, "INSERT INTO event_process (process, brokers, started_at, seen_at) VALUES ('p', 'stan', 1, %d);", time.Now().Add(time.Hour).UnixMicro())
	statements.WriteString("INSERT INTO event_outbox (stream, key, seq, event_id, type, body, at, sent_at) VALUES ('others', 'k', 1, 'x', 'ping', '', 9000, 1), ('pings', 'old', 1, 'y', 'ping', '', 1, 1)")
	for i := range n {
		fmt.Fprintf(&statements, ", ('pings', 'k', %d, 'e%[1]d', 'ping', '', %d, 1)", i+1, 5000+i)
	}
	onEach(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("front", statements.String())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var most int
		// The relay of this test sends what it finds whenever somebody looks.
		progress := func(p admin.Progress) {
			unsent, err := l.Events(t.Context(), admin.Filter{State: "unsent"})
			if err != nil {
				t.Error(err)
			}
			most = max(most, len(unsent))
			for _, e := range unsent {
				if e.Stream != "pings" || e.Key != "k" {
					t.Errorf("%s %s is sent again", e.Stream, e.Key)
				}
			}
			if len(unsent) > 0 {
				execute(t, databases[l.Service()], "UPDATE event_outbox SET sent_at = 2 WHERE sent_at IS NULL")
			}
			if p.Total != n {
				t.Errorf("progress is %+v", p)
			}
		}
		p, err := l.Replay(ctx, admin.Filter{Stream: "pings", Since: time.UnixMicro(5000)}, progress)
		if want := (admin.Progress{Total: n, Marked: n}); err != nil || p != want {
			t.Errorf("%v: %+v, want %+v", err, p, want)
		}
		if most != 1000 {
			t.Errorf("%d events were in the outbox at once, want 1000", most)
		}

		// It stops when told to, and says how far it came.
		p, err = l.Replay(ctx, admin.Filter{Stream: "pings", Key: "k", Since: time.UnixMicro(5000)}, func(p admin.Progress) {
			if p.Marked > 0 {
				cancel()
			}
		})
		if want := (admin.Progress{Total: n, Marked: 1000, Unsent: 1000}); !errors.Is(err, context.Canceled) || p != want {
			t.Errorf("%v: %+v, want %+v", err, p, want)
		}
	})
}

func TestReplayNeedsSomebodyToSend(t *testing.T) {
	onEach(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("tickets", world["tickets"])
		for want, f := range map[string]admin.Filter{
			"start it first":           {Stream: "tickets", Since: time.UnixMicro(1)},
			"say which stream, and fr": {Since: time.UnixMicro(1)},
			"say which stream, and":    {Stream: "tickets"},
		} {
			if p, err := l.Replay(t.Context(), f, nil); err == nil || !strings.Contains(err.Error(), want) || p.Marked != 0 {
				t.Errorf("%+v: %+v, %v", f, p, err)
			}
		}
	})
}

func TestOneServiceTwice(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		l := open("tickets", world["tickets"])
		if _, err := admin.Trace(t.Context(), []*admin.Ledger{l, l}, admin.Filter{}); err == nil || !strings.Contains(err.Error(), "two ledgers are said to be of tickets") {
			t.Error(err)
		}
	})
}

// A database that is no ledger, or one from before an update, is said to be.
func TestNoLedger(t *testing.T) {
	db, err := database.New(database.Config{URL: "sqlite::memory:"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	l := admin.New("x", db)
	if _, err := l.Events(t.Context(), admin.Filter{}); err == nil || !strings.Contains(err.Error(), "it is no ledger") || !strings.Contains(err.Error(), "x (sqlite::memory:)") {
		t.Error(err)
	}
	execute(t, db, "CREATE TABLE event_outbox (id INTEGER); CREATE TABLE event_cursor (id INTEGER)")
	if _, err := l.Parked(t.Context(), admin.Filter{}); err == nil || !strings.Contains(err.Error(), "<service> migrate") {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Events(t.Context(), admin.Filter{}); err == nil || strings.Contains(err.Error(), "no ledger") {
		t.Errorf("of a closed database: %v", err)
	}
}

func TestHandlerRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, open func(service, statements string) *admin.Ledger) {
		server := httptest.NewServer(admin.Handler(open("back", troubled)))
		defer server.Close()
		call := func(method, path, body, origin string) int {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/debug/events/"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if origin != "" {
				r.Header.Set("Origin", origin)
				r.Header.Set("Sec-Fetch-Site", "cross-site")
			}
			response, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			return response.StatusCode
		}
		const letter = `{"group":"back","stream":"pings","key":"a","sequence":1,"kind":"dead"}`
		for _, test := range []struct {
			method, path, body, origin string
			want                       int
		}{
			{"GET", "", "", "", 200},
			{"GET", "letters?group=back&limit=1", "", "", 200},
			{"GET", "letters?limit=many", "", "", 400},
			{"GET", "letters?since=yesterday", "", "", 400},
			{"GET", "letters?grp=back", "", "", 400},
			{"GET", "unknown", "", "", 404},
			{"GET", "trace?key=unknown", "", "", 404},
			{"GET", "redrive", "", "", 405},
			{"POST", "redrive", "not JSON", "", 400},
			{"POST", "redrive", letter, "https://elsewhere.example", 403},
			{"POST", "redrive", letter, "", 200},
			{"POST", "redrive", letter, "", 409},
		} {
			if got := call(test.method, test.path, test.body, test.origin); got != test.want {
				t.Errorf("%s %s answers %d, want %d", test.method, test.path, got, test.want)
			}
		}
	})
}

func TestDialSaysWhatIsWrong(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer page.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for address, want := range map[string]string{
		other.URL:           "is it the admin port (ADMIN_ADDR)",
		page.URL:            "does not answer as a ledger does",
		gone.URL:            "connection refused",
		"http://":           "want a URL as in",
		"http://bad host:1": "want a URL as in",
	} {
		if _, err := admin.Dial(t.Context(), address, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}
