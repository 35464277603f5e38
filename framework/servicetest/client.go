package servicetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

var errStopped = errors.New("servicetest: no process is running")

// Response is what a service answered.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// String shows the response in a test's complaint.
func (r Response) String() string { return fmt.Sprintf("%d %s", r.Status, r.Body) }

// Messages returns what the response, if it is a problem, tells the user.
func (r Response) Messages() (all []string) {
	for _, e := range r.problem().Errors {
		all = append(all, e.Message)
	}
	return all
}

type problem struct {
	Status int
	Errors []struct{ Message, Field string }
}

// problem is the zero value if r is no problem.
func (r Response) problem() (p problem) {
	if r.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(r.Body, &p) != nil {
		return problem{}
	}
	return p
}

// Send sends a request to the processes by turns or, if path is a whole URL,
// there. Any goroutine may call it.
//
// The request is of the user with that id, whose address is <id>@example.com,
// or anonymous if user is empty. A body that is a string is sent as it is, nil
// not at all, and everything else as JSON. Headers are names and values by
// turns.
func (s *Service) Send(ctx context.Context, user, method, path string, body any, headers ...string) (Response, error) {
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return Response{}, fmt.Errorf("servicetest: %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(data)
	}
	url := path
	if strings.HasPrefix(path, "/") {
		if len(s.URLs) == 0 {
			return Response{}, errStopped
		}
		url = s.URLs[s.turn.Add(1)%int64(len(s.URLs))] + path
	}
	r, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return Response{}, fmt.Errorf("servicetest: %w", err)
	}
	r.Close = true // so that no idle connection is left
	if content != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if user != "" {
		s.issuer.SignIn(r, user)
	}
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return Response{}, fmt.Errorf("servicetest: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return Response{}, fmt.Errorf("servicetest: %s %s: %w", method, path, err)
	}
	return Response{Status: res.StatusCode, Header: res.Header, Body: data}, nil
}

// Want is Send for a request whose answer has this status, or the test fails at
// once. It decodes the answer's JSON into to, unless that is nil.
func (s *Service) Want(status int, to any, user, method, path string, body any, headers ...string) Response {
	s.t.Helper()
	res, err := s.Send(s.t.Context(), user, method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	if res.Status != status {
		s.t.Fatalf("%s %s %v: %v; want %d", method, path, body, res, status)
	}
	if to != nil {
		if err := json.Unmarshal(res.Body, to); err != nil {
			s.t.Fatalf("%s %s: %v: %v", method, path, err, res)
		}
	}
	return res
}

// Refused is Want for a problem, which has these messages, or any if they are
// nil.
func (s *Service) Refused(status int, messages []string, user, method, path string, body any, headers ...string) {
	s.t.Helper()
	res := s.Want(status, nil, user, method, path, body, headers...)
	got := res.Messages()
	if res.problem().Status != status || len(got) == 0 || messages != nil && !slices.Equal(got, messages) {
		s.t.Errorf("%s %s %v: %v; want %d with %q", method, path, body, res, status, messages)
	}
}
