package event_test

import (
	"context"
	"fmt"

	"github.com/turnstile-go/turnstile/framework/database"
	"github.com/turnstile-go/turnstile/framework/event"
	"github.com/turnstile-go/turnstile/framework/event/eventtest"
)

// Shipped is an event; other services import it.
type Shipped struct {
	Order  string `json:"order"`
	Parcel string `json:"parcel"`
}

func (e Shipped) Meta() event.Meta {
	return event.Meta{Stream: "shipments", Type: "order.shipped", Key: e.Order}
}

// A service that publishes an event and handles it. In a real one the client
// is a part of the service, and the broker comes from configuration.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	db, err := database.New(database.Config{URL: "sqlite::memory:"}, event.Migrations())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := db.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}

	outbox := event.NewOutbox(db, "warehouse", Shipped{})
	listener := event.NewListener(db, "warehouse")
	told := make(chan string)
	event.Handle(listener, func(ctx context.Context, tx *database.Tx, m *event.Message[Shipped]) error {
		// Changes made through tx commit together with the cursor.
		tx.AfterCommit(func() { told <- m.Data.Parcel })
		return nil
	})
	broker := eventtest.NewBroker(eventtest.Faults{Duplicate: 1})
	defer broker.Close()
	client := event.NewClient(event.Config{}, outbox, listener, event.Telemetry{}, broker)
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()

	err = db.InTx(ctx, func(tx *database.Tx) error {
		return outbox.Publish(ctx, tx, Shipped{Order: "o-1", Parcel: "p-7"})
	})
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println("shipped:", <-told)
	stop()
	fmt.Println(<-done)
	// Output:
	// shipped: p-7
	// <nil>
}
