// Package page is the part that the services of this workspace share: a server of one page.
package page

import (
	"context"
	"fmt"
	"net"
	"net/http"
)

const ending = "."

// Server serves a text under a path.
type Server struct {
	Listen, Path, Text string

	listener net.Listener
}

// Start opens the listener.
func (s *Server) Start(context.Context) (err error) {
	s.listener, err = net.Listen("tcp", s.Listen)
	return err
}

// Addr returns where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, s.Text+ending)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(s.listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Shutdown(context.WithoutCancel(ctx))
	}
}

// Describe names the one operation.
func (s *Server) Describe() map[string]any {
	return map[string]any{"operations": []map[string]string{{"method": http.MethodGet, "path": s.Path}}}
}
