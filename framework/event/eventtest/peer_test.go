package eventtest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/database/databasetest"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

type asked struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

func (e asked) Meta() event.Meta {
	return event.Meta{Stream: "questions", Type: "question.asked", Key: e.ID}
}

type answered struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

func (e answered) Meta() event.Meta {
	return event.Meta{Stream: "answers", Type: "answer.given", Key: e.ID}
}

// A service under test, which answers questions, and its peer, which asks them;
// with a broker that repeats, loses and reorders.
func TestPeer(t *testing.T) {
	b := eventtest.NewBroker(eventtest.Faults{Seed: 1, LosePublishAck: 0.2, Duplicate: 0.2, Reorder: 0.2})
	t.Cleanup(b.Close)

	db := databasetest.SQLite(t, event.Migrations())
	outbox := event.NewOutbox(db, "service", answered{})
	l := event.NewListener(db, "service")
	event.Handle(l, func(ctx context.Context, tx *database.Tx, m *event.Message[asked]) error {
		return outbox.Publish(ctx, tx, answered{ID: m.Data.ID, N: m.Data.N * m.Data.N})
	})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := event.NewClient(event.Config{RetryFirst: time.Millisecond}, outbox, l, event.Telemetry{}, b).Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(running.Wait)
	t.Cleanup(stop)

	peer := eventtest.NewPeer(t, b, asked{})
	eventtest.Hear[answered](peer)
	peer.Start()
	peer.Publish(asked{"a", 1}, asked{"a", 2}, asked{"b", 3})
	peer.Publish(asked{"a", 4})

	if got := eventtest.Await(peer, func(e answered) bool { return e.ID == "b" }); got.N != 9 {
		t.Errorf("the answer for b is %d, want 9", got.N)
	}
	eventtest.Await(peer, func(e answered) bool { return e.N == 16 })
	var ofA []int
	for _, e := range eventtest.Heard[answered](peer) {
		if e.ID == "a" {
			ofA = append(ofA, e.N)
		}
	}
	if len(ofA) != 3 || ofA[0] != 1 || ofA[1] != 4 || ofA[2] != 16 {
		t.Errorf("the answers for a are %v, want 1, 4, 16", ofA)
	}
}
