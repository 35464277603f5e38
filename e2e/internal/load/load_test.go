package load_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/turnstile-go/turnstile/e2e/internal/load"
)

// application answers every command as it is told, and notes what it has promised.
type application struct {
	answer func(command string) int // by method and collection, such as POST /api/orders

	mu       sync.Mutex
	commands int
	promised map[string][]string // ids, by command
	enough   context.CancelFunc  // called after a number of commands
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(r.URL.Path, "/", 4)
	if r.Method == http.MethodGet {
		fmt.Fprint(w, `[{"id": "a ticket"}]`)
		return
	}
	command := r.Method + " /api/" + parts[2]
	if parts[2] == "users" {
		command = r.URL.Path
	}
	status := a.answer(command)
	a.mu.Lock()
	defer a.mu.Unlock()
	id := fmt.Sprint(a.commands)
	if r.Method == http.MethodDelete {
		id = parts[3]
	}
	if a.commands++; a.commands == 200 {
		a.enough()
	}
	if status < 300 {
		a.promised[command] = append(a.promised[command], id)
	}
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		fmt.Fprintf(w, `{"id": "%s"}`, id)
	}
}

// use has people use the application for a number of commands.
func use(t *testing.T, answer func(command string) int) (*load.Load, *application) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := &application{answer: answer, promised: map[string][]string{}, enough: cancel}
	server := httptest.NewServer(a)
	defer server.Close()
	l := load.New(server.URL, 40, 1)
	l.Run(ctx)
	return l, a
}

func success(command string) int {
	switch {
	case strings.HasPrefix(command, http.MethodDelete):
		return http.StatusNoContent
	case strings.HasPrefix(command, http.MethodPut), strings.HasSuffix(command, "/signin"):
		return http.StatusOK
	}
	return http.StatusCreated
}

func TestPromises(t *testing.T) {
	t.Parallel()
	l, a := use(t, success)
	if s := l.Stats(); s.Commands != a.commands || s.Accepted != s.Commands || s.Reads == 0 || s.Unanswered > 0 {
		t.Errorf("counted %+v, want %d commands, all accepted, and reads, all answered", s, a.commands)
	}
	if surprises, failures := l.Surprises(), l.Failures(); len(surprises)+len(failures) > 0 {
		t.Errorf("surprises %q, failures %q; want none", surprises, failures)
	}
	p := l.Promises()
	for command, told := range map[string][]string{
		"/api/users/signup": p.Users, "POST /api/tickets": p.Offered, "DELETE /api/tickets": p.Withdrawn,
		"POST /api/orders": p.Ordered, "DELETE /api/orders": p.Cancelled, "POST /api/payments": p.Paid,
	} {
		slices.Sort(told)
		slices.Sort(a.promised[command])
		if len(told) == 0 || !slices.Equal(told, a.promised[command]) {
			t.Errorf("%s: remembered %v, want %v", command, told, a.promised[command])
		}
	}
}

// TestNoPromise expects that what was refused or failed is no promise, and which of it is a surprise.
func TestNoPromise(t *testing.T) {
	t.Parallel()
	l, _ := use(t, func(command string) int {
		switch command {
		case "POST /api/orders":
			return http.StatusConflict // allowed
		case "POST /api/tickets":
			return http.StatusForbidden // by nobody's rules
		}
		if strings.HasPrefix(command, "/api/users/") {
			return success(command)
		}
		return http.StatusServiceUnavailable
	})
	p := l.Promises()
	if s := l.Stats(); len(p.Users) != s.Accepted || s.Refused == 0 || len(p.Offered)+len(p.Ordered) > 0 {
		t.Errorf("promises %+v, counted %+v; want only users, and refusals", p, s)
	}
	surprises := l.Surprises()
	if len(surprises) == 0 {
		t.Error("nothing is a surprise")
	}
	for _, s := range surprises {
		if !strings.HasPrefix(s, "POST /api/tickets was answered with 403") {
			t.Errorf("surprising: %s", s)
		}
	}
}

// TestNobodyAnswers expects that people do not give up, and that all has failed.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	l, _ := use(t, func(string) int { return http.StatusBadGateway })
	if s := l.Stats(); s.Failed != s.Commands || s.Commands < 200 || len(l.Failures()) == 0 {
		t.Errorf("counted %+v, failures %q; want that all failed", s, l.Failures())
	}
}
