// Package stanserver runs a NATS Streaming server inside the process: the
// broker of `turnstile dev`, of the demo and of tests. It is set up so that
// what it acknowledged survives its death.
package stanserver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	stand "github.com/nats-io/nats-streaming-server/server"
	"github.com/nats-io/nats-streaming-server/stores"

	"github.com/turnstile-go/turnstile/framework/internal/natsserver"
)

// Files beside the store.
const (
	cleanFile = "turnstile.clean" // there while no server is running and the last one shut down in order

	// witnessFile is the library's. With it in place it refuses to cut off a
	// torn write at the end of a file twice in succession, so that somebody
	// looks at the first. We are killed more often than once.
	witnessFile = ".truncate.lck"
)

// Options say what to run. The zero value is a server on a free port that
// keeps messages in memory only.
type Options struct {
	Dir       string       // keeps messages in files there, made if missing; in memory if empty
	Port      int          // on 127.0.0.1; 0 picks a free one
	ClusterID string       // "turnstile" if empty
	Log       *slog.Logger // nil discards
}

// Server is a running NATS Streaming server.
type Server struct {
	url  string
	once sync.Once
	stop func()
}

// Start runs a server and returns when clients can connect. It changes nothing
// about the process: no signal handlers, no output.
//
// One server at a time may use a directory, and a port. A directory that an
// earlier server left without Shutdown is repaired first: its message indexes
// are removed, to be built again from the messages. Otherwise a server that
// was killed between writing a message and its index would give the number of
// an acknowledged message to another.
func Start(o Options) (*Server, error) {
	o.ClusterID = cmp.Or(o.ClusterID, "turnstile")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := natsserver.CheckPort(o.Port); err != nil {
		return nil, fmt.Errorf("start the NATS Streaming server: %w", err)
	}
	leave := func() {}
	if o.Dir != "" {
		var err error
		if leave, err = enter(o.Dir, o.Log); err != nil {
			return nil, fmt.Errorf("start the NATS Streaming server in %s: %w", o.Dir, err)
		}
	}

	so, no := options(o)
	server, err := stand.RunServerWithOpts(so, no)
	if err != nil {
		leave() // the library has closed the store
		return nil, fmt.Errorf("start the NATS Streaming server: %w", err)
	}
	s := &Server{
		// The library stores the port it was given in no.
		url: "nats://" + net.JoinHostPort(natsserver.Host, strconv.Itoa(no.Port)),
		stop: func() {
			server.Shutdown()
			leave()
		},
	}
	o.Log.Info("NATS Streaming server started", "url", s.url, "cluster_id", o.ClusterID, "dir", o.Dir)
	return s, nil
}

// URL is the address for clients, such as nats://127.0.0.1:4222.
func (s *Server) URL() string { return s.url }

// Shutdown ends the server and returns when its files are closed and its
// directory may be used again. A second call does nothing.
func (s *Server) Shutdown() { s.once.Do(s.stop) }

func options(o Options) (*stand.Options, *natsd.Options) {
	so := stand.GetDefaultOptions()
	so.ID = o.ClusterID
	so.CustomLogger = natsserver.Logger{Log: o.Log, Prefix: "STREAM: "}
	so.StoreType = stores.TypeMemory
	if o.Dir != "" {
		so.StoreType = stores.TypeFile
		so.FilestoreDir = o.Dir
		so.FileStoreOpts.DoSync = true                // acknowledged means on disk
		so.FileStoreOpts.TruncateUnexpectedEOF = true // or a torn write would keep it from starting
	}
	// A stream keeps everything: a group that comes late starts at its beginning.
	so.StoreLimits = stores.StoreLimits{}
	// A client that died is noticed in four seconds, not minutes, and what it
	// had not acknowledged goes to others.
	so.ClientHBInterval = time.Second
	so.ClientHBTimeout = time.Second
	so.ClientHBFailCount = 2

	no := stand.NewNATSOptions()
	no.Host = natsserver.Host
	no.Port = o.Port
	if o.Port == 0 {
		no.Port = natsd.RANDOM_PORT
	}
	no.NoSigs = true
	no.NoLog = true
	return so, no
}

// enter takes possession of dir and makes it fit for a start. leave marks it
// as left in order and gives it up.
func enter(dir string, log *slog.Logger) (leave func(), err error) {
	unlock, err := natsserver.LockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := repair(dir, log); err != nil {
		unlock()
		return nil, err
	}
	return func() {
		defer unlock()
		f, err := os.Create(filepath.Join(dir, cleanFile))
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			// The next start is slower for it, not wrong.
			log.Warn("cannot mark the directory of the NATS Streaming server as left in order", "dir", dir, "error", err)
		}
	}, nil
}

// repair removes what would keep a server from starting in dir, the message
// indexes unless the last server there has shut down in order, and marks dir
// as in use.
func repair(dir string, log *slog.Logger) error {
	if err := os.Remove(filepath.Join(dir, witnessFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Remove(filepath.Join(dir, cleanFile))
	if err == nil {
		return syncDir(dir) // the mark must not come back when the power fails
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	indexes, err := fs.Glob(os.DirFS(dir), "*/msgs.*.idx")
	if err != nil {
		return err
	}
	for _, index := range indexes {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(index))); err != nil {
			return err
		}
	}
	if len(indexes) > 0 {
		log.Warn("NATS Streaming server was not shut down in order: its message indexes are built anew", "dir", dir, "indexes", len(indexes))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
