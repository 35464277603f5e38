package event

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/turnstile-go/turnstile/framework/database"
)

// What the processes of a service tell each other, through their database: that
// there is something to do, and which of them are alive.

// channel is where processes on one PostgreSQL call each other. A call says
// what there is to do; one that gets lost costs the time of a poll.
const (
	channel      = "turnstile_event"
	callRelay    = "outbox" // events are committed that the caller does not send itself
	callListener = "parked" // a key has become due that another process may handle
	callLease    = "lease"  // a lease was released
)

// hear has calls of other processes heeded until ctx is done.
func (c *Client) hear(ctx context.Context) {
	err := c.relay.db.Listen(ctx, channel, func(payload string) {
		// Without a payload, calls may have been missed.
		if payload == callRelay || payload == "" {
			signal(c.relay.called)
		}
		if c.listener != nil && (payload == callListener || payload == "") {
			signal(c.listener.wake)
		}
		if payload == callLease || payload == "" {
			c.relay.freed.ring()
		}
	})
	if err != nil && ctx.Err() == nil {
		c.log.WarnContext(ctx, "events: calls of other processes are not heard; they are looked for every second", "error", err)
	}
}

// seenEvery is how often a process says that it is alive.
const seenEvery = 10 * time.Second

// attend says that this process is alive, and which brokers it uses, until ctx
// is done.
func (c *Client) attend(ctx context.Context) {
	var names []string
	for _, b := range c.brokers {
		names = append(names, b.Name())
	}
	slices.Sort(names)
	brokers, started := strings.Join(names, "+"), micros(time.Now())
	r := c.relay
	say := func() error {
		return r.db.InTx(ctx, func(tx *database.Tx) error {
			now := time.Now()
			if _, err := tx.ExecContext(ctx, r.sql.attend, r.name, brokers, started, micros(now)); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, r.sql.forgetProcesses, micros(now.Add(-time.Hour)))
			return err
		})
	}
	ticker := time.NewTicker(seenEvery)
	defer ticker.Stop()
	for {
		if err := say(); err != nil && ctx.Err() == nil {
			c.log.DebugContext(ctx, "events: not recorded that this process runs; tried again", "process", r.name, "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// retire says that this process has ended.
func (c *Client) retire(ctx context.Context) {
	r := c.relay
	err := r.db.InTx(ctx, func(tx *database.Tx) error {
		_, err := tx.ExecContext(ctx, r.sql.retire, r.name)
		return err
	})
	if err != nil {
		c.log.DebugContext(ctx, "events: not recorded that this process has ended; it is forgotten later", "process", r.name, "error", err)
	}
}

// processName names this process to people: by its host, which in Kubernetes is
// the pod, and something that tells it from its predecessor.
func processName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return host + "-" + strings.ReplaceAll(uuid.NewString(), "-", "")[:8]
}
