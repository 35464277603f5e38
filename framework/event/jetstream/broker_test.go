package jetstream_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/event/internal/brokertest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
)

func startEmbedded(t *testing.T, o jetstreamserver.Options) *brokertest.Embedded {
	t.Helper()
	return brokertest.StartEmbedded(t, func(port int) (brokertest.Server, error) {
		o.Port = port
		return jetstreamserver.Start(o)
	})
}

func TestConformance(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := startEmbedded(t, jetstreamserver.Options{Dir: t.TempDir()})
		return eventtest.Harness{
			Broker: func(id string) event.Broker {
				return jetstream.New(jetstream.Config{URL: server.URL, ClientID: id}, nil)
			},
			Kill:    server.Shutdown,
			Restart: server.Start,
		}
	})
}

// The same with a server that is killed, instead of shut down.
func TestConformanceKilled(t *testing.T) {
	eventtest.TestBroker(t, func(t *testing.T) eventtest.Harness {
		server := brokertest.StartProcess(t)
		return eventtest.Harness{
			Broker: func(id string) event.Broker {
				return jetstream.New(jetstream.Config{URL: server.URL, ClientID: id}, nil)
			},
			Kill:    server.Kill,
			Restart: server.Start,
		}
	})
}

func TestServerKilledUnderLoad(t *testing.T) {
	server := brokertest.StartProcess(t)
	brokertest.KilledUnderLoad(t, server, brokerOf(server), nil)
}

// A server that comes back with nothing gets its streams and consumers anew, and
// from the ledger what was in them.
func TestServerWipedUnderLoad(t *testing.T) {
	server := brokertest.StartProcess(t)
	brokertest.KilledUnderLoad(t, server, brokerOf(server), func() {
		if err := os.RemoveAll(server.Dir); err != nil {
			t.Fatal(err)
		}
	})
}

func brokerOf(server *brokertest.Process) func(id string) event.Broker {
	return func(id string) event.Broker {
		return jetstream.New(jetstream.Config{URL: server.URL, ClientID: id}, nil)
	}
}

// permissions are those that docs/brokers.md asks for.
var permissions = []string{
	"turnstile.>", "$JS.ACK.>", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.*",
	"$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.CREATE.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*",
}

// startRestricted runs a server that lets its user publish to these subjects.
func startRestricted(t *testing.T, publish []string) (url string) {
	t.Helper()
	url = startServer(t, &natsd.Options{
		JetStream: true, StoreDir: t.TempDir(),
		Users: []*natsd.User{{Username: "ann", Password: "secret", Permissions: &natsd.Permissions{
			Publish:   &natsd.SubjectPermission{Allow: publish},
			Subscribe: &natsd.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}}},
	})
	return strings.Replace(url, "//", "//ann:secret@", 1)
}

// The permissions that are asked for are enough.
func TestPermissions(t *testing.T) {
	cfg := jetstream.Config{URL: startRestricted(t, permissions)}
	for _, ackWait := range []time.Duration{time.Second, time.Minute} { // the second changes the consumer
		s := connect(t, cfg)
		in := brokertest.Subscribe(t, s, event.Subscription{Stream: "box.tickets", Group: "orders", AckWait: ackWait})
		brokertest.Publish(t, s, "box.tickets", "one")
		d := in.Next(t)
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Errors of Connect say what is wrong and what to do.
func TestConnectErrors(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	core := startServer(t, &natsd.Options{})
	private := startServer(t, &natsd.Options{Username: "ann", Password: "secret"})

	for _, tt := range []struct {
		name string
		cfg  jetstream.Config
		want string
	}{
		{"nobody listens", jetstream.Config{URL: "nats://user:hush@" + brokertest.Nobody(t)}, "is it running, and is JETSTREAM_URL right?"},
		{"somebody else listens", jetstream.Config{URL: "nats://user:hush@" + silent.Addr().String()}, "is it running, and is JETSTREAM_URL right?"},
		{"no JetStream", jetstream.Config{URL: core}, "run nats-server with -js"},
		{"no address", jetstream.Config{URL: "nats://user:hush@host:port"}, "JETSTREAM_URL is not an address"},
		{"a wrong password", jetstream.Config{URL: strings.Replace(private, "//", "//ann:hush@", 1)}, "are the user and password in JETSTREAM_URL"},
		{"a wrong token", jetstream.Config{URL: strings.Replace(private, "//", "//hush@", 1)}, "does not let us in"},
		{"no credentials", jetstream.Config{URL: core, Creds: filepath.Join(t.TempDir(), "none.creds")}, "none.creds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			brokertest.ConnectFails(t, jetstream.New(tt.cfg, nil), tt.want)
		})
	}
}

// startServer runs a NATS server with these options.
func startServer(t *testing.T, o *natsd.Options) (url string) {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", natsd.RANDOM_PORT, true, true
	s, err := natsd.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	return s.ClientURL()
}

// patient returns a broker that finds out by pings that a server is dead, and not
// by publishes.
func patient(url string) event.Broker {
	return jetstream.New(jetstream.Config{URL: url, PublishTimeout: time.Minute}, nil)
}

func TestConnectIsCancelled(t *testing.T) { brokertest.ConnectIsCancelled(t, patient) }

func TestHungServer(t *testing.T) {
	t.Parallel()
	brokertest.HungServer(t, patient)
}

func TestCloseHungServer(t *testing.T) {
	t.Parallel()
	brokertest.CloseHungServer(t, patient)
}

// A subscription from which nothing comes, not even a sign of life, ends its
// session, though server and connection are well.
func TestStuckSubscription(t *testing.T) {
	t.Parallel()
	// The server drops requests for messages.
	url := startRestricted(t, slices.DeleteFunc(slices.Clone(permissions), func(subject string) bool { return strings.Contains(subject, "NEXT") }))
	s := connect(t, jetstream.Config{URL: url})
	subscribed := time.Now()
	brokertest.Subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"})
	brokertest.AwaitLost(t, s, subscribed)
}

// A subscription whose consumer or stream somebody has deleted ends its session,
// though server and connection are well, and so does a publish. The next session
// makes both again.
func TestDeleted(t *testing.T) {
	server := startEmbedded(t, jetstreamserver.Options{})
	cfg := jetstream.Config{URL: server.URL}
	admin := administrator(t, server.URL)
	sub := event.Subscription{Stream: "tickets", Group: "orders"}

	s := connect(t, cfg)
	in := brokertest.Subscribe(t, s, sub)
	brokertest.Publish(t, s, "tickets", "one")
	if err := in.Next(t).Ack(); err != nil {
		t.Fatal(err)
	}
	if err := admin.DeleteConsumer(t.Context(), "turnstile-tickets", "orders"); err != nil {
		t.Fatal(err)
	}
	brokertest.AwaitLost(t, s, time.Now())

	s = connect(t, cfg)
	in = brokertest.Subscribe(t, s, sub)
	if got := in.Next(t); string(got.Body) != "one" {
		t.Errorf("a consumer that was made anew starts with %q, want the beginning", got.Body)
	}
	if err := admin.DeleteStream(t.Context(), "turnstile-tickets"); err != nil {
		t.Fatal(err)
	}
	brokertest.AwaitLost(t, s, time.Now())

	s = connect(t, cfg)
	brokertest.Publish(t, s, "tickets", "two")
	if got := brokertest.Subscribe(t, s, sub).Next(t); string(got.Body) != "two" {
		t.Errorf("a stream that was made anew has %q, want two", got.Body)
	}

	brokertest.Publish(t, s, "orders", "one")
	if err := admin.DeleteStream(t.Context(), "turnstile-orders"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	s.Publish(t.Context(), "orders", []byte("two"), func(err error) { answer <- err })
	if err := <-answer; err == nil {
		t.Error("a message was stored in a stream that is gone")
	}
	brokertest.AwaitLost(t, s, time.Now())
	brokertest.Publish(t, connect(t, cfg), "orders", "three")
}

// What an operator has set for a stream or consumer stays, and what cannot work
// is said.
func TestOperatorsStreams(t *testing.T) {
	server := startEmbedded(t, jetstreamserver.Options{})
	admin := administrator(t, server.URL)
	create := func(cfg natsjs.StreamConfig) {
		t.Helper()
		if _, err := admin.CreateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	s := connect(t, jetstream.Config{URL: server.URL, MaxAge: time.Hour})

	create(natsjs.StreamConfig{Name: "turnstile-tickets", Subjects: []string{"turnstile.tickets"}, MaxAge: 5 * time.Hour, Storage: natsjs.MemoryStorage})
	brokertest.Publish(t, s, "tickets", "one")
	brokertest.Subscribe(t, s, event.Subscription{Stream: "tickets", Group: "orders"}).Next(t)
	stream, err := admin.Stream(t.Context(), "turnstile-tickets")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := stream.CachedInfo().Config; cfg.MaxAge != 5*time.Hour || cfg.Storage != natsjs.MemoryStorage {
		t.Errorf("the operator's stream was changed: %+v", cfg)
	}

	create(natsjs.StreamConfig{Name: "turnstile-orders", Subjects: []string{"orders"}})
	create(natsjs.StreamConfig{Name: "audit", Subjects: []string{"turnstile.payments"}})
	create(natsjs.StreamConfig{Name: "turnstile-users", Subjects: []string{"turnstile.users"}})
	users, err := admin.Stream(t.Context(), "turnstile-users")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := users.CreateConsumer(t.Context(), natsjs.ConsumerConfig{Durable: "orders", AckPolicy: natsjs.AckNonePolicy}); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]string{
		"orders":   `there is a JetStream stream "turnstile-orders", but it does not take turnstile.orders`,
		"payments": `the JetStream stream "audit" has the subject turnstile.payments, which must be that of "turnstile-payments"`,
		"users":    `the consumer "orders" of the JetStream stream "turnstile-users" does not ask for every acknowledgement`,
		"a b":      "NATS allows no spaces",
		"a.*":      "no wildcards",
		".a":       "before and after every dot",
	} {
		_, err := s.Subscribe(t.Context(), event.Subscription{Stream: stream, Group: "orders"}, func(event.Delivery) {})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("subscribe to %q: %v, want %q", stream, err, want)
		}
	}
}

// A batch of messages to a stream that cannot be made does not wait for each of
// them, and what an operator mends is noticed.
func TestRefusedStream(t *testing.T) {
	server := startEmbedded(t, jetstreamserver.Options{})
	admin := administrator(t, server.URL)
	if _, err := admin.CreateStream(t.Context(), natsjs.StreamConfig{Name: "turnstile-tickets", Subjects: []string{"tickets"}}); err != nil {
		t.Fatal(err)
	}
	s := connect(t, jetstream.Config{URL: server.URL})
	answer := make(chan error, 1)
	send := func() error {
		s.Publish(t.Context(), "tickets", []byte("one"), func(err error) { answer <- err })
		return <-answer
	}
	first := send()
	for range 5000 { // it would take a second to ask for each
		if err := send(); err == nil || err.Error() != first.Error() {
			t.Fatalf("publish: %v, and before it %v", err, first)
		}
	}
	if err := admin.DeleteStream(t.Context(), "turnstile-tickets"); err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(20 * time.Second); send() != nil; {
		if time.Now().After(late) {
			t.Fatal("nobody notices that the stream can be made")
		}
	}
}

// Streams that are made by us are as configured, one for each name there can be.
func TestMakesStreams(t *testing.T) {
	server := startEmbedded(t, jetstreamserver.Options{})
	admin := administrator(t, server.URL)
	s := connect(t, jetstream.Config{URL: server.URL, MaxAge: time.Hour, MaxBytes: 1 << 20})
	names := map[string]string{
		"tickets": "turnstile-tickets", "box.tickets": "turnstile-box_2etickets", "box_2etickets": "turnstile-box_5f2etickets", "großes-haus": "turnstile-gro_c3_9fes-haus",
	}
	for stream := range names {
		brokertest.Publish(t, s, stream, stream)
	}
	for stream, name := range names {
		made, err := admin.Stream(t.Context(), name)
		if err != nil {
			t.Errorf("the JetStream stream of %s: %v", stream, err)
			continue
		}
		cfg, state := made.CachedInfo().Config, made.CachedInfo().State
		if cfg.Subjects[0] != "turnstile."+stream || cfg.MaxAge != time.Hour || cfg.MaxBytes != 1<<20 ||
			cfg.Storage != natsjs.FileStorage || cfg.Retention != natsjs.LimitsPolicy || cfg.Replicas != 1 {
			t.Errorf("the JetStream stream of %s is %+v", stream, cfg)
		}
		if state.Msgs != 1 {
			t.Errorf("the JetStream stream of %s has %d messages, want 1", stream, state.Msgs)
		}
		if got := brokertest.Subscribe(t, s, event.Subscription{Stream: stream, Group: "box.orders"}).Next(t); string(got.Body) != stream {
			t.Errorf("%s has %q", stream, got.Body)
		}
	}
}

// The messages of a process that has died are soon given to another, those that
// a living one works on for long are not.
func TestDeadMember(t *testing.T) {
	t.Parallel()
	server := startEmbedded(t, jetstreamserver.Options{})
	cfg := jetstream.Config{URL: server.URL}
	sub := event.Subscription{Stream: "tickets", Group: "orders", AckWait: time.Minute, MaxInFlight: 1}

	// What a dead member leaves behind: a message that it has taken, and nobody
	// to say a word about it.
	working := brokertest.Subscribe(t, connect(t, cfg), sub)
	publisher := connect(t, cfg)
	brokertest.Publish(t, publisher, "tickets", "long")
	long := working.Next(t)
	brokertest.Publish(t, publisher, "tickets", "orphan")
	consumer, err := administrator(t, server.URL).Consumer(t.Context(), "turnstile-tickets", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := consumer.Next(); err != nil || string(taken.Data()) != "orphan" {
		t.Fatalf("took %v, %v", taken, err)
	}

	died := time.Now()
	others := brokertest.Subscribe(t, connect(t, cfg), event.Subscription{Stream: "tickets", Group: "orders", AckWait: time.Minute})
	got := others.Next(t)
	t.Logf("the message of a dead member came after %v", time.Since(died).Round(time.Millisecond))
	if string(got.Body) != "orphan" || !got.Redelivered {
		t.Errorf("the other member is given %s, redelivered %t; want orphan, redelivered", got.Body, got.Redelivered)
	}
	if took := time.Since(died); took > 10*time.Second {
		t.Errorf("that took %v", took)
	}
	select {
	case d := <-others:
		t.Errorf("%s, which a living member works on, was given to another", d.Body)
	case <-time.After(2 * time.Second):
	}
	if err := long.Ack(); err != nil {
		t.Error(err)
	}
}

// A publish to a server that keeps no more messages is answered with its reason.
func TestFullStream(t *testing.T) {
	server := startEmbedded(t, jetstreamserver.Options{})
	if _, err := administrator(t, server.URL).CreateStream(t.Context(), natsjs.StreamConfig{
		Name: "turnstile-tickets", Subjects: []string{"turnstile.tickets"}, MaxMsgs: 1, Discard: natsjs.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	s := connect(t, jetstream.Config{URL: server.URL})
	brokertest.Publish(t, s, "tickets", "one")
	answer := make(chan error, 1)
	s.Publish(t.Context(), "tickets", []byte("two"), func(err error) { answer <- err })
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "maximum messages exceeded") {
		t.Errorf("publish to a full stream: %v", err)
	}
}

func connect(t *testing.T, cfg jetstream.Config) event.Session {
	t.Helper()
	return brokertest.Connect(t, jetstream.New(cfg, nil))
}

// administrator is a client that does as it likes.
func administrator(t *testing.T, url string) natsjs.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
