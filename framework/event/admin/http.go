package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// prefix is where a service's admin port has its Handler.
const prefix = "/debug/events/"

// Handler serves the ledger to [Dial] and to people with a browser or curl,
// below /debug/events/, as JSON:
//
//	GET  list, letters, parked, trace   what Events, Letters, Parked and Trace return; a Filter is in the query
//	POST redrive, skip                  a Letter
//	POST replay                         one step of a Replay
//	GET  books, positions               what Trace, Lag, Audit and Brokers are made of
//	POST committed                      events by their place
//
// It changes things and asks nobody who they are: it is for a port that only
// operators reach. Requests that a browser makes for another site are refused.
func Handler(l *Ledger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"{$}", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, http.StatusOK, about{Service: l.service, Ledger: l.source.String()})
	})
	ask(mux, l, "list", l.source.events)
	ask(mux, l, "letters", l.source.letters)
	ask(mux, l, "parked", l.source.parked)
	ask(mux, l, "books", l.source.books)
	ask(mux, l, "positions", func(ctx context.Context, _ Filter) (*positions, error) { return l.positions(ctx) })
	ask(mux, l, "trace", func(ctx context.Context, f Filter) ([]Path, error) { return Trace(ctx, []*Ledger{l}, f) })
	order(mux, l, "redrive", done(l.redrive))
	order(mux, l, "skip", done(l.skip))
	order(mux, l, "replay", l.replay)
	order(mux, l, "committed", l.committed)
	return http.NewCrossOriginProtection().Handler(mux)
}

// about is what a Handler says of itself.
type about struct {
	Service string `json:"service"`
	Ledger  string `json:"ledger"`
}

func done(do func(context.Context, Letter) error) func(context.Context, Letter) (struct{}, error) {
	return func(ctx context.Context, at Letter) (struct{}, error) { return struct{}{}, do(ctx, at) }
}

// ask serves what is asked for with a Filter.
func ask[T any](mux *http.ServeMux, l *Ledger, name string, read func(context.Context, Filter) (T, error)) {
	mux.HandleFunc("GET "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
		f, err := parseFilter(r.URL.Query())
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		v, err := read(r.Context(), f)
		answer(w, v, l.explain(r.Context(), err))
	})
}

// order serves what is done with a body.
func order[In, Out any](mux *http.ServeMux, l *Ledger, name string, do func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<20)).Decode(&in); err != nil {
			refuse(w, http.StatusBadRequest, fmt.Errorf("the body is not what it should be: %w", err))
			return
		}
		out, err := do(r.Context(), in)
		answer(w, out, l.explain(r.Context(), err))
	})
}

// failure is the body of an answer that is none.
type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.As(err, new(refusal)):
		refuse(w, http.StatusConflict, err)
	case errors.Is(err, ErrUnknown):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
	default:
		respond(w, http.StatusOK, v)
	}
}

func refuse(w http.ResponseWriter, code int, err error) { respond(w, code, failure{err.Error()}) }

func respond(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

// query writes a Filter as parseFilter reads it.
func (f Filter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"id": f.ID, "group": f.Group, "stream": f.Stream, "key": f.Key, "type": f.Type, "state": f.State} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if f.Sequence != 0 {
		q.Set("sequence", strconv.FormatInt(f.Sequence, 10))
	}
	if f.Limit != 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if f.Body {
		q.Set("body", "true")
	}
	return q
}

func parseFilter(q url.Values) (f Filter, err error) {
	for name, values := range q {
		value, err := values[len(values)-1], error(nil)
		switch name {
		case "id":
			f.ID = value
		case "group":
			f.Group = value
		case "stream":
			f.Stream = value
		case "key":
			f.Key = value
		case "type":
			f.Type = value
		case "state":
			f.State = value
		case "sequence":
			f.Sequence, err = strconv.ParseInt(value, 10, 64)
		case "limit":
			f.Limit, err = strconv.Atoi(value)
		case "since":
			f.Since, err = time.Parse(time.RFC3339, value)
		case "body":
			f.Body, err = strconv.ParseBool(value)
		default:
			return f, fmt.Errorf("there is no parameter %q: want id, group, stream, key, sequence, type, state, since, limit or body", name)
		}
		if err != nil {
			return f, fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return f, nil
}

// Dial asks the admin port at address, a URL or host:port, whose ledger it has.
// A nil client is http.DefaultClient. It returns an error that says what is
// wrong if no [Handler] answers there.
func Dial(ctx context.Context, address string, client *http.Client) (*Ledger, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("the admin port %q: want a URL as in http://orders:9090", address)
	}
	if client == nil {
		client = http.DefaultClient
	}
	r := &remote{base: strings.TrimSuffix(address, "/"), client: client}
	a, err := get[about](ctx, r, "", Filter{})
	if err != nil {
		return nil, fmt.Errorf("ask the admin port %s: %w", address, err)
	}
	if a.Service == "" {
		return nil, fmt.Errorf("ask the admin port %s: what answers there is no service with a ledger", address)
	}
	return &Ledger{a.Service, r}, nil
}

// remote is a ledger behind a service's admin port.
type remote struct {
	base   string
	client *http.Client
}

func (r *remote) String() string { return r.base }

func (r *remote) events(ctx context.Context, f Filter) ([]Event, error) {
	return get[[]Event](ctx, r, "list", f)
}

func (r *remote) letters(ctx context.Context, f Filter) ([]Letter, error) {
	return get[[]Letter](ctx, r, "letters", f)
}

func (r *remote) parked(ctx context.Context, f Filter) ([]Parked, error) {
	return get[[]Parked](ctx, r, "parked", f)
}

func (r *remote) books(ctx context.Context, f Filter) (*books, error) {
	return get[*books](ctx, r, "books", f)
}

func (r *remote) positions(ctx context.Context) (*positions, error) {
	return get[*positions](ctx, r, "positions", Filter{})
}

func (r *remote) committed(ctx context.Context, places []place) ([]Event, error) {
	return post[[]Event](ctx, r, "committed", places)
}

func (r *remote) redrive(ctx context.Context, at Letter) error {
	_, err := post[struct{}](ctx, r, "redrive", at)
	return err
}

func (r *remote) skip(ctx context.Context, at Letter) error {
	_, err := post[struct{}](ctx, r, "skip", at)
	return err
}

func (r *remote) replay(ctx context.Context, c chunk) (chunk, error) {
	return post[chunk](ctx, r, "replay", c)
}

func get[T any](ctx context.Context, r *remote, name string, f Filter) (v T, err error) {
	address := r.base + prefix + name
	if q := f.query(); len(q) > 0 {
		address += "?" + q.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return v, err
	}
	err = r.do(request, &v)
	return v, err
}

func post[T any](ctx context.Context, r *remote, name string, body any) (v T, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return v, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+prefix+name, bytes.NewReader(text))
	if err != nil {
		return v, err
	}
	request.Header.Set("Content-Type", "application/json")
	err = r.do(request, &v)
	return v, err
}

// do decodes the answer into a pointer.
func (r *remote) do(request *http.Request, into any) error {
	response, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("%w; does the service run, and is that its admin port (ADMIN_ADDR)?", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", request.URL, err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, into); err != nil {
			return fmt.Errorf("%s does not answer as a ledger does: %w", request.URL, err)
		}
		return nil
	}
	var f failure
	if json.Unmarshal(body, &f) == nil && f.Error != "" {
		if response.StatusCode == http.StatusConflict {
			return refusal(f.Error)
		}
		return errors.New(f.Error)
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("it has no %s: is it the admin port (ADMIN_ADDR) of a service with events?", prefix)
	}
	return fmt.Errorf("%s: %s", request.URL, response.Status)
}
