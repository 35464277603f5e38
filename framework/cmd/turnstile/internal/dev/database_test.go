package dev

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDatabaseURL(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".env")
	if err := os.WriteFile(file, []byte("TICKETS_DATABASE_URL=postgres:///tickets\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		environ       []string
		service, want string
	}{
		{nil, "orders", "sqlite:/ws/.turnstile/data/orders.db"},
		{nil, "tickets", "postgres:///tickets"},
		{[]string{"DATABASE_URL=postgres:///{service}"}, "orders", "postgres:///orders"},
		{[]string{"DATABASE_URL=postgres:///one"}, "orders", "sqlite:/ws/.turnstile/data/orders.db"},
		{[]string{"ORDERS_DATABASE_URL=sqlite:/tmp/o.db", "DATABASE_URL=postgres:///{service}"}, "orders", "sqlite:/tmp/o.db"},
	} {
		if got, err := DatabaseURL("/ws/.turnstile", file, test.environ, test.service); err != nil || got != test.want {
			t.Errorf("%v: %s has %s (%v), want %s", test.environ, test.service, got, err, test.want)
		}
	}
}
