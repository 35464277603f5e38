// Package adminport serves the pages for operators that a process has beside its work: probes, metrics, debugging.
package adminport

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Server answers on an admin port until it is closed.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers what comes to the listener, which is the server's from now on. What goes wrong is logged.
func Serve(listener net.Listener, pages http.Handler, log *slog.Logger) *Server {
	s := &Server{
		http: &http.Server{
			Handler: pages, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the admin port is not served any more", "address", listener.Addr().String(), "error", err)
		}
	}()
	return s
}

// Close ends the server and whatever it is answering.
func (s *Server) Close() {
	_ = s.http.Close() // the listener's error helps nobody now
	<-s.done
}

// Respond answers with a JSON body that nobody is to keep.
func Respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may have gone
}
