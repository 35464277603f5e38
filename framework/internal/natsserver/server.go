package natsserver

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	startWait = 30 * time.Second // for recovering what is stored
	routeUser = "peer"           // in a cluster with a token
	leaveWait = 2 * time.Second  // in which the clients of a server that leaves its cluster are sent away, one by one
)

// Options are what all servers take.
type Options struct {
	Host  string            // to listen on; 127.0.0.1 if empty
	Port  int               // for clients; 0 picks a free one
	Token string            // that clients, and the servers of a cluster, must present; none if empty
	Name  string            // of the server, among Peers if there are any; "turnstile" if empty
	Peers map[string]string // of a cluster: where its servers, this one included, reach one another, by name
	Log   *slog.Logger      // nil discards
}

// Server is a running NATS server.
type Server struct {
	*server.Server
	log     *slog.Logger
	url     string
	cluster bool
}

// Start runs a server and returns when clients can connect. add completes what
// it is run with.
func Start(o Options, add func(*server.Options)) (*Server, error) {
	o.Host = cmp.Or(o.Host, "127.0.0.1")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkPort(o.Host, o.Port); err != nil {
		return nil, err
	}
	no := &server.Options{
		ServerName: cmp.Or(o.Name, "turnstile"),
		Host:       o.Host,
		Port:       o.Port,
		NoSigs:     true, NoLog: true,
		Authorization: o.Token,
	}
	if o.Port == 0 {
		no.Port = server.RANDOM_PORT
	}
	if len(o.Peers) > 0 {
		if err := o.join(no); err != nil {
			return nil, err
		}
	}
	add(no)

	s, err := server.NewServer(no)
	if err != nil {
		return nil, err
	}
	running := &Server{Server: s, log: o.Log, cluster: len(o.Peers) > 0}
	log := &startLog{Logger: Logger{Log: o.Log}}
	s.SetLoggerV2(log, false, false, false)
	s.Start() // it says to its log only that it has failed
	for late := time.Now().Add(startWait); !s.ReadyForConnections(100 * time.Millisecond); {
		fatal := log.fatal.Load()
		switch {
		case fatal != nil:
			err = errors.New(*fatal)
		case time.Now().After(late):
			err = fmt.Errorf("it is not ready after %v", startWait)
		default:
			continue
		}
		running.cluster = false // there is nobody to send away
		running.Shutdown()
		return nil, err
	}
	host := o.Host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	at := url.URL{Scheme: "nats", Host: net.JoinHostPort(host, strconv.Itoa(s.Addr().(*net.TCPAddr).Port))}
	if o.Token != "" {
		at.User = url.User(o.Token)
	}
	running.url = at.String()
	return running, nil
}

// join has the server take part in the cluster.
func (o Options) join(no *server.Options) error {
	var user *url.Userinfo
	if o.Token != "" {
		user = url.UserPassword(routeUser, o.Token)
		no.Cluster.Username, no.Cluster.Password = routeUser, o.Token
	}
	own, ok := o.Peers[o.Name]
	if !ok {
		return fmt.Errorf("the server's name %q is not among those of its cluster: %s", o.Name, strings.Join(o.names(), ", "))
	}
	for _, name := range o.names() {
		// This one is among them: JetStream counts them to know how many are a majority.
		no.Routes = append(no.Routes, &url.URL{Scheme: "nats", User: user, Host: o.Peers[name]})
	}
	_, port, err := net.SplitHostPort(own)
	if err != nil {
		return fmt.Errorf("the address of %s in its cluster: %w", o.Name, err)
	}
	if no.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("the port of %s in its cluster: %w", o.Name, err)
	}
	no.Cluster.Name = "turnstile"
	no.Cluster.Host = o.Host
	no.Cluster.NoAdvertise = true // clients have an address for all servers, and our own connections are to stay here
	no.LameDuckDuration = leaveWait
	no.LameDuckGracePeriod = time.Millisecond
	return nil
}

func (o Options) names() (names []string) {
	for name := range o.Peers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// URL is the address for clients of this machine, with the token if there is one.
func (s *Server) URL() string { return s.url }

// Shutdown ends the server. One of a cluster first hands over what it leads, and
// then sends its clients away, who find the others.
func (s *Server) Shutdown() {
	if s.cluster {
		s.LameDuckShutdown()
	}
	s.Server.Shutdown()
	s.WaitForShutdown()
}

// startLog remembers why the server has failed to start.
type startLog struct {
	Logger
	fatal atomic.Pointer[string] // the last message of that kind
}

func (l *startLog) Fatalf(format string, v ...any) {
	l.Logger.Fatalf(format, v...)
	message := fmt.Sprintf(format, v...)
	l.fatal.Store(&message)
}
