package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/internal/natsconn"
)

var (
	errLost    = errors.New("the session with JetStream has ended")
	errUnacked = errors.New("JetStream did not acknowledge the message in time")
)

const (
	makeWait = 5 * time.Second        // for the server to make a stream or a consumer
	askAgain = 500 * time.Millisecond // without an answer
)

// ask calls the server, again and again as long as there is no answer: a cluster
// that has no leader just now drops requests. Calls must bear repeating.
func ask(ctx context.Context, wait time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		trying, end := context.WithTimeout(ctx, askAgain)
		err := call(trying)
		end()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// session is one NATS connection.
type session struct {
	*natsconn.Session
	cfg    Config
	log    *slog.Logger
	nats   *nats.Conn
	js     jetstream.JetStream
	cut    func()        // closes the TCP connection
	making chan struct{} // holds an element while a stream is looked up or made

	mu      sync.Mutex
	answers map[*nats.Msg]func(error) // who waits for the server's word on a message
	streams map[string]finding        // by event stream
}

// run sees the session to its end.
func (s *session) run() {
	defer s.Finish()
	if err := s.AwaitEnd(); err != nil {
		s.log.Warn("the session with JetStream is lost", "error", err)
		s.cut() // frees whatever is stuck in a write
	} else {
		s.StopSubscriptions() // what is being handled may still be acknowledged
		late := time.AfterFunc(natsconn.Patience/2, s.cut)
		if err := s.nats.FlushTimeout(natsconn.Patience / 2); err != nil {
			s.log.Debug("the server may not have heard the last acknowledgements", "error", err)
		}
		late.Stop()
	}
	s.nats.Close()
	s.giveUp()
}

// Publish implements [event.Session]. The first message of a stream waits until
// the stream is known to be there.
func (s *session) Publish(ctx context.Context, stream string, body []byte, acked func(error)) {
	s.Session.Publish(ctx, stream, acked, func(answer func(error)) error { return s.send(ctx, stream, body, answer) })
}

func (s *session) send(ctx context.Context, stream string, body []byte, answer func(error)) error {
	if err := s.require(ctx, stream); err != nil {
		return err
	}
	// There is no Nats-Msg-Id in it: the server would drop what was sent already,
	// and with it the repair of a stream that has lost it meanwhile. It is the
	// ledger that drops duplicates, and for longer than two minutes.
	m := &nats.Msg{Subject: subject(stream), Data: body}
	s.mu.Lock()
	s.answers[m] = answer
	s.mu.Unlock()
	// The library's own window is as wide, so this does not wait for it.
	_, err := s.js.PublishMsgAsync(m)
	if err == nil {
		if s.Context().Err() != nil {
			s.answer(m, errLost) // it may have come too late for giveUp
		}
		return nil
	}
	if s.waiting(m) == nil {
		return nil // it has its answer already
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("the message of %d bytes is larger than the server takes (max_payload): %w", len(body), err)
	}
	return reason(err)
}

// answer tells whoever published m what became of it, once.
func (s *session) answer(m *nats.Msg, err error) {
	if acked := s.waiting(m); acked != nil {
		acked(err)
	}
}

// refused is what the library calls with an error instead of an acknowledgement.
func (s *session) refused(m *nats.Msg, err error) {
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		// Somebody has deleted the stream. The next session makes it anew.
		s.End(fmt.Errorf("no stream takes %s any more: %w", m.Subject, err))
	}
	// The library holds a lock that the next publish needs while it reports that
	// time is up.
	go s.answer(m, reason(err))
}

// waiting returns how to answer the publisher of m and forgets it, or nil if
// that has an answer.
func (s *session) waiting(m *nats.Msg) (acked func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	acked = s.answers[m]
	delete(s.answers, m)
	return acked
}

// giveUp answers everything that the server will not answer any more.
func (s *session) giveUp() {
	s.mu.Lock()
	answers := s.answers
	s.answers = map[*nats.Msg]func(error){}
	s.mu.Unlock()
	for _, acked := range answers {
		acked(errLost)
	}
}

// reason says in our words what the libraries' errors mean.
func reason(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return errUnacked
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected):
		return errLost
	}
	return err
}

// request asks the server until ctx is done, the session is lost, or makeWait is
// over.
func (s *session) request(ctx context.Context, call func(context.Context) error) error {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.Context(), cancel)()
	err := ask(asking, makeWait, call)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case s.Context().Err() != nil:
		return errLost
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("JetStream does not answer: is it starting, has its cluster no majority, or may our user not ask (docs/brokers.md)? (%w)", err)
	}
	return reason(err)
}

// finding is what the server has said about a stream.
type finding struct {
	err error // nil if it is there
	at  time.Time
}

// found returns what is known about a stream. That it is there is believed for
// as long as the session lasts, that it is not for a moment: a batch of messages
// should not wait for each of them to be refused.
func (s *session) found(stream string) (f finding, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok = s.streams[stream]
	return f, ok && (f.err == nil || time.Since(f.at) < time.Second)
}

// require makes sure that there is a stream that takes the event stream's
// messages.
func (s *session) require(ctx context.Context, stream string) error {
	if f, ok := s.found(stream); ok {
		return f.err
	}
	if err := checkStream(stream); err != nil {
		return err
	}
	select {
	case s.making <- struct{}{}:
		defer func() { <-s.making }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Lost():
		return errLost
	}
	if f, ok := s.found(stream); ok {
		return f.err
	}
	err := s.request(ctx, func(ctx context.Context) error { return s.makeStream(ctx, stream) })
	if ctx.Err() == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams[stream] = finding{err, time.Now()}
	}
	return err
}

// makeStream makes the stream unless it is there. One that is there is the
// operator's: it is not changed.
func (s *session) makeStream(ctx context.Context, stream string) error {
	name := streamName(stream)
	owner, err := s.js.StreamNameBySubject(ctx, subject(stream))
	switch {
	case err == nil && owner == name:
		return nil
	case err == nil:
		return fmt.Errorf("the JetStream stream %q has the subject %s, which must be that of %q: take it from there, or delete that stream", owner, subject(stream), name)
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("look for the JetStream stream %q: %w", name, err)
	}
	_, err = s.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{subject(stream)}, Description: "events of " + stream,
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: s.cfg.Replicas,
		MaxAge: s.cfg.MaxAge, MaxBytes: s.cfg.MaxBytes,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		// Another process may have made it meanwhile, with other limits.
		if owner, err := s.js.StreamNameBySubject(ctx, subject(stream)); err == nil && owner == name {
			return nil
		}
		return fmt.Errorf("there is a JetStream stream %q, but it does not take %s: give it that subject, or delete it", name, subject(stream))
	}
	if err != nil {
		return fmt.Errorf("make the JetStream stream %q with %d replicas: %w", name, s.cfg.Replicas, err)
	}
	s.log.Info("JetStream stream made", "stream", name, "subject", subject(stream), "replicas", s.cfg.Replicas, "max_age", s.cfg.MaxAge)
	return nil
}

// Subscribe implements [event.Session].
func (s *session) Subscribe(ctx context.Context, to event.Subscription, deliver func(event.Delivery)) (func() error, error) {
	return s.Session.Subscribe(ctx, to.Stream, to.Group, func() (natsconn.Subscription, error) {
		return s.subscribe(ctx, to, deliver)
	})
}

func (s *session) subscribe(ctx context.Context, to event.Subscription, deliver func(event.Delivery)) (*subscription, error) {
	if err := s.require(ctx, to.Stream); err != nil {
		return nil, err
	}
	ackWait := max(cmp.Or(to.AckWait, 30*time.Second), time.Second)
	sub := &subscription{
		deliver: deliver,
		end:     s.End,
		most:    cmp.Or(to.MaxInFlight, 256),
		ackWait: ackWait,
		renewal: min(ackWait, max(maxPings*s.cfg.PingInterval, time.Second)),
		// Two of them missing are three pings.
		heartbeat: s.cfg.PingInterval * maxPings / 2,
		open:      map[*message]struct{}{},
		room:      make(chan struct{}, 1),
	}
	err := s.request(ctx, func(ctx context.Context) (err error) {
		sub.consumer, err = s.consumer(ctx, to, sub.renewal)
		return err
	})
	if err != nil {
		return nil, err
	}
	sub.start(s.Context())
	return sub, nil
}

// consumer returns the group's durable consumer of the stream, which is made if
// it is not there. Where one that is there stands is not changed.
func (s *session) consumer(ctx context.Context, to event.Subscription, ackWait time.Duration) (jetstream.Consumer, error) {
	stream, name := streamName(to.Stream), escape(to.Group)
	ours := func(cfg jetstream.ConsumerConfig) jetstream.ConsumerConfig {
		cfg.AckWait = ackWait
		cfg.MaxDeliver = -1 // the ledger decides when an event is dead
		// No bound for all members together: each takes no more than it may hold.
		// With one, a member that is stuck would use up what the others need.
		cfg.MaxAckPending = -1
		return cfg
	}
	found, err := s.js.Consumer(ctx, stream, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		found, err = s.js.CreateConsumer(ctx, stream, ours(jetstream.ConsumerConfig{
			Durable: name, Description: "listener group " + to.Group,
			DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		}))
		if errors.Is(err, jetstream.ErrConsumerExists) {
			found, err = s.js.Consumer(ctx, stream, name) // another member was faster
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the consumer %q of the JetStream stream %q: %w", name, stream, err)
	}
	cfg := found.CachedInfo().Config
	if cfg.AckPolicy != jetstream.AckExplicitPolicy {
		return nil, fmt.Errorf("the consumer %q of the JetStream stream %q does not ask for every acknowledgement (%v): delete it, so that it is made anew", name, stream, cfg.AckPolicy)
	}
	if cfg.AckWait != ackWait || cfg.MaxDeliver != -1 || cfg.MaxAckPending != -1 {
		if found, err = s.js.UpdateConsumer(ctx, stream, ours(cfg)); err != nil {
			return nil, fmt.Errorf("change the consumer %q of the JetStream stream %q: %w", name, stream, err)
		}
	}
	return found, nil
}
