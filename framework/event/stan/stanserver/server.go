// Package stanserver runs a NATS Streaming server inside the process: the
// broker of `turnstile dev`, of the demo, of tests, and, as one of several, of a
// Kubernetes cluster. It is set up so that what it acknowledged survives its
// death.
package stanserver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	stand "github.com/nats-io/nats-streaming-server/server"
	"github.com/nats-io/nats-streaming-server/stores"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go/pb"

	"github.com/turnstile-go/turnstile/framework/internal/natsserver"
)

// Files beside the store, and folders of a server in a cluster.
const (
	cleanFile = "turnstile.clean" // there while no server is running and the last one shut down in order

	// witnessFile is the library's. With it in place it refuses to cut off a
	// torn write at the end of a file twice in succession, so that somebody
	// looks at the first. We are killed more often than once.
	witnessFile = ".truncate.lck"

	storeDir = "store" // what the store of a server of its own has in the directory itself
	raftDir  = "raft"  // what the servers have agreed upon: must not be in the store, which takes folders for channels

	serverFile = "server.dat" // the library's, in every store
)

// Options say what to run. The zero value is a server on a free port that
// keeps messages in memory only.
type Options struct {
	Dir       string            // keeps messages in files there, made if missing; in memory if empty, which a cluster does not allow
	Host      string            // to listen on; 127.0.0.1 if empty
	Port      int               // for clients; 0 picks a free one
	Token     string            // clients must have it in their URL, as in nats://token@127.0.0.1:4222; none if empty
	ClusterID string            // "turnstile" if empty
	Name      string            // of this server among Peers
	Peers     map[string]string // of a cluster: where its servers, this one included, reach one another, as in host:6222, by name
	Log       *slog.Logger      // nil discards
}

// Server is a running NATS Streaming server.
type Server struct {
	nats      *natsserver.Server
	streaming *stand.StanServer
	self      *nats.Conn // to ask how it is
	clusterID string
	cluster   bool
	leave     func()
	once      sync.Once
}

// Start runs a server and returns when clients can connect. It changes nothing
// about the process: no signal handlers, no output. In a cluster it does not wait
// for the other servers, unless it lacks messages that only they can have.
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
	s, err := start(o)
	if err != nil {
		return nil, fmt.Errorf("start the NATS Streaming server: %w", err)
	}
	o.Log.Info("NATS Streaming server started", "address", s.nats.Addr().String(), "cluster_id", o.ClusterID, "dir", o.Dir,
		"name", s.nats.Name(), "servers", max(1, len(o.Peers)))
	return s, nil
}

func start(o Options) (_ *Server, err error) {
	s := &Server{clusterID: o.ClusterID, cluster: len(o.Peers) > 0, leave: func() {}}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	switch {
	case o.Dir != "":
		if s.leave, err = enter(o.Dir, s.cluster, o.Log); err != nil {
			s.leave = func() {}
			return nil, fmt.Errorf("in %s: %w", o.Dir, err)
		}
	case s.cluster:
		return nil, errors.New("a server of a cluster needs a directory to keep its messages in")
	}
	shared := natsserver.Options{Host: o.Host, Port: o.Port, Token: o.Token, Name: o.Name, Peers: o.Peers, Log: o.Log}
	if s.nats, err = natsserver.Start(shared, func(*natsd.Options) {}); err != nil {
		return nil, err
	}
	if s.streaming, err = stand.RunServerWithOpts(options(o, s.nats.URL()), stand.NewNATSOptions()); err != nil {
		return nil, err // the library has closed the store
	}
	if s.self, err = nats.Connect(s.nats.URL(), nats.InProcessServer(s.nats), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second)); err != nil {
		return nil, err
	}
	return s, nil
}

// URL is the address for clients on this machine, such as nats://127.0.0.1:4222,
// with the token if there is one.
func (s *Server) URL() string { return s.nats.URL() }

// Ready is nil if the server is of use to clients. One of a cluster takes part in
// it, and reaches the one that leads.
func (s *Server) Ready(ctx context.Context) error {
	if s.cluster {
		role, err := s.role()
		if err != nil {
			return fmt.Errorf("find the server's role in its cluster: %w", err)
		}
		if role != "Leader" && role != "Follower" {
			return fmt.Errorf("it is a %s in its cluster", role)
		}
	}
	// Only who leads answers pings. It knows nobody of our name, and says so.
	ping, err := (&pb.Ping{ConnID: []byte("ready?")}).Marshal()
	if err != nil {
		return err
	}
	_, err = s.self.RequestWithContext(ctx, stand.DefaultDiscoverPrefix+"."+s.clusterID+".pings", ping)
	if errors.Is(err, nats.ErrNoResponders) {
		return errors.New("no server leads the cluster, or it is out of reach")
	}
	if err != nil {
		return fmt.Errorf("ask the server that leads: %w", err)
	}
	return nil
}

// Leads reports whether the server leads those of its cluster, and so does their
// work. One on its own does.
func (s *Server) Leads() bool {
	if !s.cluster {
		return true
	}
	role, err := s.role()
	return err == nil && role == "Leader"
}

// role asks the library, which tells only HTTP.
func (s *Server) role() (string, error) {
	r, err := http.NewRequest(http.MethodGet, stand.ServerPath, nil)
	if err != nil {
		return "", err
	}
	var answer response
	s.streaming.HandleServerz(&answer, r)
	var is stand.Serverz
	if err := json.Unmarshal(answer.Bytes(), &is); err != nil {
		return "", fmt.Errorf("read %q: %w", answer.String(), err)
	}
	return is.Role, nil
}

// response is what an HTTP handler has written.
type response struct{ bytes.Buffer }

func (*response) Header() http.Header { return http.Header{} }

func (*response) WriteHeader(int) {}

// Shutdown ends the server and returns when its files are closed and its
// directory may be used again. One of a cluster then takes some seconds to send its
// clients to the others. A second call does nothing.
func (s *Server) Shutdown() { s.once.Do(s.end) }

// end undoes as much as was started.
func (s *Server) end() {
	if s.self != nil {
		s.self.Close()
	}
	if s.streaming != nil {
		s.streaming.Shutdown()
	}
	s.leave()
	if s.nats != nil {
		s.nats.Shutdown()
	}
}

func options(o Options, url string) *stand.Options {
	so := stand.GetDefaultOptions()
	so.ID = o.ClusterID
	so.CustomLogger = natsserver.Logger{Log: o.Log, Prefix: "STREAM: "}
	so.NATSServerURL = url
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

	if len(o.Peers) > 0 {
		so.FilestoreDir = filepath.Join(o.Dir, storeDir)
		so.Clustering = stand.ClusteringOptions{
			Clustered:    true,
			NodeID:       o.Name,
			RaftLogPath:  filepath.Join(o.Dir, raftDir),
			LogCacheSize: stand.DefaultLogCacheSize,
			LogSnapshots: stand.DefaultLogSnapshots,
			TrailingLogs: stand.DefaultTrailingLogs,
			Sync:         true, // goes before DoSync
			// Another server leads about a second after the death of the one
			// that did. The defaults are four times as long.
			RaftHeartbeatTimeout: 500 * time.Millisecond,
			RaftElectionTimeout:  500 * time.Millisecond,
			RaftLeaseTimeout:     250 * time.Millisecond,
			RaftCommitTimeout:    20 * time.Millisecond,
		}
		// All name all, and none is the first: whichever two find each other are a cluster.
		for name := range o.Peers {
			so.Clustering.Peers = append(so.Clustering.Peers, name)
		}
	}
	return so
}

// enter takes possession of dir and makes it fit for a start. leave marks it
// as left in order and gives it up.
func enter(dir string, cluster bool, log *slog.Logger) (leave func(), err error) {
	unlock, err := natsserver.LockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := checkUse(dir, cluster); err != nil {
		unlock()
		return nil, err
	}
	if cluster {
		dir = filepath.Join(dir, storeDir)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			unlock()
			return nil, err
		}
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

// checkUse refuses what a server of the other kind has left: neither can go on from it.
func checkUse(dir string, cluster bool) error {
	file, was, is := filepath.Join(dir, serverFile), "a server of its own", "one of a cluster"
	if !cluster {
		file, was, is = filepath.Join(dir, raftDir), is, was
	}
	_, err := os.Stat(file)
	if err == nil {
		return fmt.Errorf("it has the messages of %s, which cannot become %s: give the new one an empty directory", was, is)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
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
