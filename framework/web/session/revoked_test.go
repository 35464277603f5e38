package session_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/web/session"
)

// on returns a started Verifier on db, and how to sign a session that it takes.
func on(t *testing.T, db *database.DB) (v *session.Verifier, signed func() string) {
	t.Helper()
	k := newKey(t, "1")
	return startOn(t, db, k), func() string { return sign(t, session.Config{}, k, ada, time.Now()) }
}

func startOn(t *testing.T, db *database.DB, k session.Key) *session.Verifier {
	t.Helper()
	v := session.NewVerifier(session.Config{JWKSURL: "http://auth", Transport: newAuth(k)}, db, nil)
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// presented returns what revokes the sessions of a request.
func presented(t *testing.T, v *session.Verifier, header http.Header) (all []session.Revoked) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = header
	v.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		if all, err = v.Presented(r.Context()); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
	return all
}

// revoke ends the session of a token, and reports whether that was news.
func revoke(t *testing.T, v *session.Verifier, db *database.DB, r session.Revoked) (news bool) {
	t.Helper()
	err := db.InTx(t.Context(), func(tx *database.Tx) (err error) {
		news, err = v.Revoke(t.Context(), tx, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return news
}

// counts reports whether a token counts, by whichever way it comes.
func counts(t *testing.T, v *session.Verifier, token string) bool {
	t.Helper()
	_, asBearer, _ := identify(v, bearer(token))
	_, asCookie, _ := identify(v, http.Header{"Cookie": {"session=" + token}})
	if asBearer != asCookie {
		t.Errorf("as a bearer token it counts: %v, as a cookie: %v", asBearer, asCookie)
	}
	return asBearer
}

// takes is counts for one of the ways, where what it says may just be changing.
func takes(v *session.Verifier, token string) bool {
	_, known, _ := identify(v, bearer(token))
	return known
}

func TestARevokedSessionDoesNotCount(t *testing.T) {
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		k := newKey(t, "1")
		v, other := startOn(t, db, k), startOn(t, db, k) // of two processes
		run(t, other)
		signed := time.Now()
		token, another := sign(t, session.Config{}, k, ada, signed), sign(t, session.Config{}, k, ada, signed)
		all := presented(t, v, bearer(token))
		if len(all) != 1 || all[0].ID == "" || all[0].ExpiresAt.Sub(signed.Add(session.Lifetime)).Abs() > 2*time.Second {
			t.Fatalf("the request came with %v", all)
		}

		undone := errors.New("rolled back")
		if err := db.InTx(t.Context(), func(tx *database.Tx) error {
			if _, err := v.Revoke(t.Context(), tx, all[0]); err != nil {
				t.Error(err)
			}
			return undone
		}); !errors.Is(err, undone) || !counts(t, v, token) {
			t.Errorf("%v: revoked by a transaction that was rolled back", err)
		}

		if !revoke(t, v, db, all[0]) {
			t.Error("to revoke a session is no news")
		}
		if counts(t, v, token) {
			t.Error("the session still counts")
		}
		if revoke(t, v, db, all[0]) {
			t.Error("to revoke it again is news")
		}
		for began := time.Now(); takes(other, token); time.Sleep(5 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatal("another process does not learn of it")
			}
		}
		for name, v := range map[string]*session.Verifier{"this process": v, "another": other, "a new one": startOn(t, db, k)} {
			if counts(t, v, token) {
				t.Errorf("the session counts in %s", name)
			}
			if !counts(t, v, another) {
				t.Errorf("another session of the same user does not count in %s", name)
			}
		}
	}, session.Migrations())
}

// What is revoked stays so while the database is away, and nobody else is signed out by that.
func TestRevokedWhileTheDatabaseIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.SQLite(t, session.Migrations())
		v, signed := on(t, db)
		run(t, v)
		token, another := signed(), signed()
		revoke(t, v, db, presented(t, v, bearer(token))[0])
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(session.SweepEvery)
			if counts(t, v, token) || !counts(t, v, another) {
				t.Fatal("the copy has not stayed as it was")
			}
		}
		if err := v.Start(t.Context()); err == nil {
			t.Error("a process starts without knowing what is revoked")
		}
	})
}

// What is over is forgotten: how much is remembered depends on how much was revoked in the lifetime of a session, and not
// on how long the service runs.
func TestRevocationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := databasetest.SQLite(t, session.Migrations())
		v, signed := on(t, db)
		pass := func(d time.Duration) { // of which it runs the last moment: that saves the test as many readings as there are seconds
			time.Sleep(d)
			ctx, stop := context.WithTimeout(t.Context(), 2*session.LearnEvery)
			defer stop()
			if err := v.Run(ctx); err != nil {
				t.Error(err)
			}
		}
		rows := func() (n int) {
			if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM session_revoked`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		const hourly = 10
		token := ""
		for hour := range 40 {
			for range hourly {
				token = signed()
				revoke(t, v, db, presented(t, v, bearer(token))[0])
			}
			pass(time.Hour)
			if most := hourly * 13; rows() > most || v.Remembers() > most {
				t.Fatalf("after %d hours %d rows are left, and %d are remembered", hour, rows(), v.Remembers())
			}
		}
		if rows() < hourly*11 || v.Remembers() < hourly*11 {
			t.Errorf("%d rows are left, and %d are remembered: too few", rows(), v.Remembers())
		}
		last := presented(t, v, bearer(signed()))[0]
		pass(session.Lifetime + session.Forgetful)
		if rows() != 0 || v.Remembers() != 0 {
			t.Errorf("%d rows are left, and %d are remembered, though all sessions have expired", rows(), v.Remembers())
		}
		if counts(t, v, token) {
			t.Error("a session that was revoked counts after it was forgotten")
		}
		if revoke(t, v, db, last) || rows() != 0 {
			t.Error("what is over is recorded")
		}
	})
}

// To revoke a key is to revoke every session that it has signed.
func TestARevokedKey(t *testing.T) {
	db := databasetest.SQLite(t, session.Migrations())
	bad, good := newKey(t, "bad"), newKey(t, "good")
	v := session.NewVerifier(session.Config{JWKSURL: "http://auth", Transport: newAuth(bad, good)}, db, nil)
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stolen, fine := sign(t, session.Config{}, bad, ada, time.Now()), sign(t, session.Config{}, good, ada, time.Now())
	if !counts(t, v, stolen) || !counts(t, v, fine) {
		t.Fatal("the sessions do not count")
	}
	revoke(t, v, db, session.Revoked{ID: "bad", ExpiresAt: time.Now().Add(time.Hour)})
	if counts(t, v, stolen) || counts(t, v, sign(t, session.Config{}, bad, ada, time.Now())) {
		t.Error("what the key has signed counts")
	}
	if !counts(t, v, fine) {
		t.Error("what another key has signed does not count")
	}
}

func TestPresented(t *testing.T) {
	db := databasetest.SQLite(t, session.Migrations())
	v, signed := on(t, db)
	one, two := signed(), signed()
	idOf := func(token string) string { return presented(t, v, bearer(token))[0].ID }
	for name, test := range map[string]struct {
		header http.Header
		want   []string
	}{
		"nothing":           {http.Header{}, nil},
		"garbage":           {bearer("garbage"), nil},
		"a cookie":          {http.Header{"Cookie": {"session=" + one}}, []string{idOf(one)}},
		"both":              {http.Header{"Authorization": {"Bearer " + one}, "Cookie": {"session=" + two}}, []string{idOf(one), idOf(two)}},
		"a good cookie":     {http.Header{"Authorization": {"Bearer garbage"}, "Cookie": {"session=" + two}}, []string{idOf(two)}},
		"two cookies":       {http.Header{"Cookie": {"session=" + one + "; session=" + two}}, []string{idOf(one)}},
		"a bad first":       {http.Header{"Cookie": {"session=garbage; session=" + two}}, nil},
		"an empty cookie":   {http.Header{"Cookie": {"session="}}, nil},
		"a bearer of blank": {http.Header{"Authorization": {"Bearer "}}, nil},
	} {
		var got []string
		for _, r := range presented(t, v, test.header) {
			got = append(got, r.ID)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

// However many sessions are revoked, the ledgers count a bounded number of keys a day, about as many sessions in each.
func TestKeysOfRevocations(t *testing.T) {
	const sessions, most = 10_000, 256
	ends := time.Date(2026, 5, 6, 0, 0, 0, 0, time.FixedZone("", 3600)) // the 5th, in UTC
	keys := map[string]int{}
	for i := range sessions {
		r := session.Revoked{ID: uuid.Must(uuid.NewV7()).String(), ExpiresAt: ends.Add(time.Duration(i) * time.Millisecond)}
		key := r.Meta().Key
		if r.ExpiresAt = r.ExpiresAt.UTC(); r.Meta().Key != key {
			t.Fatalf("the key is %s, and as it is sent %s", key, r.Meta().Key)
		}
		keys[key]++
	}
	if n := len(keys); n > most || n < most*9/10 {
		t.Errorf("%d sessions have %d keys", sessions, n)
	}
	for key, n := range keys {
		if !strings.HasPrefix(key, "2026-05-05-") || n > 3*sessions/most {
			t.Errorf("%d sessions have the key %s", n, key)
		}
	}
}

// Every service hears of what auth revokes, whichever of its processes gets the event.
func TestListen(t *testing.T) {
	db := databasetest.SQLite(t, event.Migrations(), session.Migrations())
	v, signed := on(t, db)
	listener := event.NewListener(db, "service")
	v.Listen(listener)
	broker := eventtest.NewBroker(eventtest.Faults{})
	t.Cleanup(broker.Close)
	client := event.NewClient(event.Config{}, event.NewOutbox(db, "service"), listener, event.Telemetry{}, broker)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	auth := eventtest.NewPeer(t, broker, session.Revoked{})
	auth.Start()
	token := signed()
	auth.Publish(
		session.Revoked{ID: "long over", ExpiresAt: time.Now().Add(-time.Hour)},
		presented(t, v, bearer(token))[0],
	)
	for began := time.Now(); takes(v, token); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatal("the service does not hear of it")
		}
	}
	if n := v.Remembers(); n != 1 {
		t.Errorf("%d are remembered", n)
	}
}
