package natsconn

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

var (
	errOver = errors.New("the session has ended")
	errDown = errors.New("the connection is down")
)

// member is a subscription that counts what was done to it.
type member struct{ stopped, left int }

func (m *member) Stop() { m.stopped++ }

func (m *member) Leave() error { m.left++; return nil }

// A session that is closed waits for what has begun, and stops its subscriptions.
func TestCloseSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSession(errOver, 1)
		go func() {
			if reason := s.AwaitEnd(); reason != nil {
				t.Errorf("a session that is closed has ended because of %v", reason)
			}
			s.Finish()
		}()
		subscribe := func(m *member) func() error {
			leave, err := s.Subscribe(t.Context(), "tickets", "orders", func() (Subscription, error) { return m, nil })
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		var early, late, slow member
		leave := subscribe(&early)
		for range 2 {
			if err := leave(); err != nil {
				t.Errorf("leave: %v", err)
			}
		}
		subscribe(&late)
		joined := make(chan struct{})
		go s.Subscribe(t.Context(), "tickets", "orders", func() (Subscription, error) {
			<-joined
			return &slow, nil
		})
		synctest.Wait()

		closed := make(chan struct{})
		for range 2 {
			go func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				closed <- struct{}{}
			}()
		}
		<-s.Lost()
		if _, err := s.Subscribe(t.Context(), "tickets", "orders", nil); !errors.Is(err, errOver) {
			t.Errorf("subscribe: %v, want %v", err, errOver)
		}
		synctest.Wait()
		select {
		case <-closed:
			t.Error("close does not wait for the calls under way")
		default:
		}
		close(joined)
		<-closed
		<-closed
		if want := (member{stopped: 1, left: 1}); early != want {
			t.Errorf("a subscription that was left is %+v, want %+v", early, want)
		}
		if want := (member{stopped: 1}); late != want || slow != want {
			t.Errorf("subscriptions that were not left are %+v and %+v, want %+v", late, slow, want)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
	})
}

// A publish waits for room until it is cancelled or the session is lost, and
// however it ends, its publisher is told once, and the next has its place.
func TestPublishWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSession(errOver, 1)
		go func() {
			if reason := s.AwaitEnd(); !errors.Is(reason, errDown) {
				t.Errorf("the session has ended because of %v, want %v", reason, errDown)
			}
			s.Finish()
		}()
		told := make(chan error, 10)
		sent := make(chan func(error), 10)
		publish := func(ctx context.Context) {
			s.Publish(ctx, "tickets", func(err error) { told <- err }, func(answer func(error)) error {
				sent <- answer
				return nil
			})
		}
		expect := func(what string, want error) {
			t.Helper()
			if err := <-told; !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}

		s.Publish(t.Context(), "tickets", func(err error) { told <- err }, func(func(error)) error { return errDown })
		expect("a publish that cannot be sent", errDown)

		publish(t.Context())
		first := <-sent
		cancelled, cancel := context.WithCancel(t.Context())
		go publish(cancelled)
		synctest.Wait() // it finds no room
		cancel()
		expect("a publish that is cancelled", context.Canceled)

		go publish(t.Context())
		synctest.Wait()
		first(nil)
		expect("the first publish", nil)
		second := <-sent

		go publish(t.Context())
		synctest.Wait()
		s.End(errDown)
		s.End(errors.New("something that follows from it"))
		expect("a publish that finds no room until the end", errOver)
		second(errDown)
		expect("a publish under way at the end", errDown)
		publish(t.Context())
		expect("a publish after the end", errOver)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if len(sent)+len(told) > 0 {
			t.Errorf("%d messages too many were sent, and %d answers given", len(sent), len(told))
		}
	})
}
