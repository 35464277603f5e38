package fleet

import (
	"slices"
	"testing"
)

func TestRoundRobin(t *testing.T) {
	t.Parallel()
	a, b, c := &Service{Addr: "a"}, &Service{Addr: "b"}, &Service{Addr: "c"}
	r := &replicas{all: []*Service{a, b, c}}
	take := func(runs func(*Service) bool) (taken []string) {
		for range 6 {
			if s := r.next(runs); s != nil {
				taken = append(taken, s.Addr)
			}
		}
		return taken
	}
	all := take(func(*Service) bool { return true })
	if slices.Sort(all); !slices.Equal(all, []string{"a", "a", "b", "b", "c", "c"}) {
		t.Errorf("six requests went to %v, want two to each", all)
	}
	if some := take(func(s *Service) bool { return s != b }); len(some) != 6 || slices.Contains(some, "b") {
		t.Errorf("six requests went to %v, want none to b", some)
	}
	if none := take(func(*Service) bool { return false }); len(none) > 0 {
		t.Errorf("requests went to %v, though nobody runs", none)
	}
}

func TestServiceOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/api/users/signup": "auth", "/.well-known/jwks.json": "auth", "/api/orders": "orders", "/api/tickets/1": "tickets", "/": "",
	} {
		if got := serviceOf(path); got != want {
			t.Errorf("%s belongs to %q, want %q", path, got, want)
		}
	}
}
