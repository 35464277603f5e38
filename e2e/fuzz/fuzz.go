package fuzz

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/e2e/internal/invariants"
)

// Options say what to send, and where.
type Options struct {
	Services map[string]string // addresses, host:port, by the name of the API: /api/<name>
	Seed     uint64            // decides what is sent, as far as answers do not
	Requests int               // of all workers together; three times as many if an operation has had no success by then
	Workers  int               // who send at once
}

// Finding is something that must not be.
type Finding struct {
	What     string
	Requests string // the number of the request, of the worker
	Sent     string
	Got      string
	Times    int // how often it was, or something like it
}

func (f Finding) String() string {
	return fmt.Sprintf("%s (%d times)\n  %s\n  sent: %s\n  got:  %s", f.What, f.Times, f.Requests, f.Sent, f.Got)
}

// Report is what came of it.
type Report struct {
	Requests int
	Statuses map[int]int
	Reached  map[string]map[int]int // statuses, by operation
	Missed   []string               // operations that have never had a success
	Findings []Finding
	Promises invariants.Promises // what successes have promised
}

// Run sends the requests. It returns an error only if it cannot.
func Run(ctx context.Context, o Options) (*Report, error) {
	var operations []*operation
	for _, name := range []string{"users", "tickets", "orders", "payments"} {
		of, err := load(ctx, name, o.Services[name])
		if err != nil {
			return nil, err
		}
		operations = append(operations, of...)
	}
	if err := awaitKeys(ctx, operations); err != nil {
		return nil, err
	}
	j := &journal{report: Report{Statuses: map[int]int{}, Reached: map[string]map[int]int{}}, found: map[string]*Finding{}}
	for _, o := range operations {
		j.report.Missed = append(j.report.Missed, o.String())
	}
	workers := max(1, o.Workers)
	errs := make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			w := &worker{
				name: fmt.Sprint("worker ", i), journal: j, operations: operations, users: o.Services["users"],
				connections: &connections{open: map[string]*connection{}},
				generator: &generator{Rand: rand.New(rand.NewPCG(o.Seed, uint64(i))),
					ids: map[string][]string{}}, //nolint:gosec // to be repeated
			}
			defer w.connections.close()
			errs[i] = w.run(ctx, o.Requests/workers)
		})
	}
	group.Wait()
	return j.close(), errors.Join(errs...)
}

// awaitKeys waits until every service can tell who calls: until it has the keys of sessions it says 503, and may.
func awaitKeys(ctx context.Context, operations []*operation) error {
	for _, o := range operations {
		if o.method != http.MethodGet || !o.session || strings.Contains(o.path, "{") {
			continue
		}
		for {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.addr+o.path, nil)
			if err != nil {
				return err
			}
			nobodys := "eyJhbGciOiJFZERTQSIsImtpZCI6IngifQ.e30." + strings.Repeat("A", 86) // by a key that there is not
			request.Header.Set("Authorization", "Bearer "+nobodys)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return fmt.Errorf("fuzz: await the keys of sessions: %w", err)
			}
			response.Body.Close()
			if response.StatusCode != http.StatusServiceUnavailable {
				break
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("fuzz: %v still has no keys of sessions: %w", o, ctx.Err())
			}
		}
	}
	return nil
}

// worker sends one request after the other.
type worker struct {
	name string
	*journal
	*generator
	operations  []*operation
	connections *connections
	users       string // address of the service
	sent        int
}

// crowd is how many users a worker has.
const crowd = 3

func (w *worker) run(ctx context.Context, requests int) error {
	for range crowd {
		w.generator.users = append(w.generator.users, &user{})
	}
	for range 8 {
		w.keys = append(w.keys, fmt.Sprintf("key-%x", w.Uint64()))
	}
	for w.sent = 0; (w.sent < requests || w.sent < 3*requests && w.misses()) && ctx.Err() == nil; {
		for _, u := range w.generator.users {
			if u.token == "" {
				if err := w.signUp(ctx, u); err != nil {
					return err
				}
			}
		}
		if err := w.step(ctx, w.request(w.pick())); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pick returns an operation: those that make things more often.
func (w *worker) pick() *operation {
	for {
		o := one(w.generator, w.operations)
		if o.body != nil && o.session || w.chance(2) {
			return o
		}
	}
}

// signUp makes a user anew.
func (w *worker) signUp(ctx context.Context, u *user) error {
	i := slices.IndexFunc(w.operations, func(o *operation) bool { return strings.HasSuffix(o.path, "/signup") })
	if i < 0 {
		return errors.New("fuzz: the document of users has no sign-up")
	}
	r := &request{operation: w.operations[i], method: http.MethodPost, target: w.operations[i].path, version: "HTTP/1.1"}
	u.email = uuid.UUID(w.random16()).String() + "@example.com"
	r.body = fmt.Appendf(nil, `{"email":%q,"password":%q}`, u.email, password)
	r.header("Host", w.users)
	r.header("Content-Type", "application/json")
	r.header("X-Forwarded-For", fmt.Sprintf("198.51.%d.%d", w.IntN(256), w.IntN(256)))
	r.header("Content-Length", fmt.Sprint(len(r.body)))
	answers, err := w.connections.send(ctx, r)
	if err != nil {
		return err
	}
	w.note(r, answers[0])
	for _, c := range (&http.Response{Header: answers[0].header}).Cookies() {
		u.token = c.Value
	}
	if u.token == "" {
		return fmt.Errorf("fuzz: sign up: %v", answers[0])
	}
	return nil
}

func (w *worker) random16() (b [16]byte) {
	for i := range b {
		b[i] = byte(w.Uint32())
	}
	return b
}

// step sends a request and looks at what comes.
func (w *worker) step(ctx context.Context, r *request) error {
	w.sent += 1 + r.more
	answers, err := w.connections.send(ctx, r)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.add(r, nil, "there was no answer: "+err.Error())
		return nil
	}
	if len(answers) == 0 {
		w.add(r, nil, "")
	}
	if r.more > 0 && len(answers) > 0 && len(answers) != 1+r.more && !answers[len(answers)-1].closes {
		w.add(r, answers[0], fmt.Sprintf("there were %d answers to %d requests", len(answers), 1+r.more))
	}
	for _, a := range answers {
		w.note(r, a)
		w.learn(r, a)
	}
	if strings.HasSuffix(r.operation.path, "/signout") && r.caller != nil {
		r.caller.token = "" // or it may be
	}
	return nil
}

// learn keeps what an answer tells, for later requests.
func (w *worker) learn(r *request, a *answer) {
	w.tags = remember(w.tags, a.header.Get("ETag"))
	if _, after, ok := strings.Cut(a.header.Get("Link"), "cursor="); ok {
		w.cursors = remember(w.cursors, after[:max(0, strings.IndexAny(after+">", "&>"))])
	}
	if a.status >= 300 {
		return
	}
	var v any
	if json.Unmarshal([]byte(a.text), &v) != nil {
		return
	}
	of := strings.TrimSuffix(strings.Split(strings.Trim(r.operation.path, "/")+"/", "/")[1], "s")
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, thing := range list[:min(len(list), 5)] {
		members, _ := thing.(map[string]any)
		for name, value := range members {
			if id, ok := value.(string); ok && strings.HasSuffix(name, "Id") {
				of := strings.TrimSuffix(name, "Id")
				w.ids[of] = remember(w.ids[of], id)
			} else if ok && name == "id" {
				w.ids[of] = remember(w.ids[of], id)
			}
		}
	}
}

// journal is what all workers write down.
type journal struct {
	mu     sync.Mutex
	report Report
	found  map[string]*Finding
}

// misses reports whether an operation has never had a success.
func (j *journal) misses() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.report.Missed) > 0
}

// note looks at an answer and keeps what it promises.
func (w *worker) note(r *request, a *answer) {
	for _, what := range judge(r, a) {
		w.add(r, a, what)
	}
	w.add(r, a, "")
	if r.twisted {
		return
	}
	var thing struct{ ID string }
	_ = json.Unmarshal([]byte(a.text), &thing) // not every answer has one
	last := r.last()
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.status/100 == 2 {
		name := r.operation.String()
		w.report.Missed = slices.DeleteFunc(w.report.Missed, func(missed string) bool { return missed == name })
	}
	p := &w.report.Promises
	switch fmt.Sprint(r.operation, " ", a.status) {
	case "POST /api/users/signup 201":
		p.Users = append(p.Users, thing.ID)
	case "POST /api/tickets 201":
		p.Offered = append(p.Offered, thing.ID)
	case "DELETE /api/tickets/{id} 204":
		p.Withdrawn = append(p.Withdrawn, last)
	case "POST /api/orders 201":
		p.Ordered = append(p.Ordered, thing.ID)
	case "DELETE /api/orders/{id} 204":
		p.Cancelled = append(p.Cancelled, last)
	case "POST /api/payments 201":
		p.Paid = append(p.Paid, thing.ID)
	}
}

// most is how many findings are kept.
const most = 100

// add counts a request, or notes what is wrong with it. What differs in numbers only is one finding.
func (w *worker) add(r *request, a *answer, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := 0
	if a != nil {
		status = a.status
	}
	if what == "" {
		w.report.Requests++
		w.report.Statuses[status]++
		name := r.operation.String()
		if w.report.Reached[name] == nil {
			w.report.Reached[name] = map[int]int{}
		}
		w.report.Reached[name][status]++
		return
	}
	key := fmt.Sprintf("%v %d %.60s", r.operation, status, what)
	if f := w.found[key]; f != nil {
		f.Times++
		return
	}
	if len(w.found) >= most {
		return
	}
	got := "nothing"
	if a != nil {
		got = a.String()
	}
	w.found[key] = &Finding{
		What: fmt.Sprintf("%v: %s", r.operation, what), Requests: fmt.Sprintf("%s, after %d requests", w.name, w.sent),
		Sent: fmt.Sprintf("%q", shorten(string(r.bytes()))), Got: got, Times: 1,
	}
}

// close returns the report.
func (j *journal) close() *Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.found {
		j.report.Findings = append(j.report.Findings, *f)
	}
	slices.SortFunc(j.report.Findings, func(a, b Finding) int { return cmp.Or(b.Times-a.Times, strings.Compare(a.What, b.What)) })
	return &j.report
}
