package service_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework/event/eventtest"
	"github.com/turnstile-go/turnstile/framework/event/jetstream"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
	"github.com/turnstile-go/turnstile/framework/web/session/sessiontest"
	"github.com/turnstile-go/turnstile/services/orders"
	"github.com/turnstile-go/turnstile/services/payments"
	"github.com/turnstile-go/turnstile/services/payments/internal/stripe/stripetest"
)

// childVariable makes the test binary the service: to be killed takes a process.
const childVariable = "PAYMENTS_TEST_CHILD"

// child is the service in a process of its own.
type child struct {
	t       *testing.T
	issuer  *sessiontest.Issuer
	environ []string
	ready   string // file

	mu  sync.Mutex
	cmd *exec.Cmd
	url string
}

func (c *child) start() {
	c.t.Helper()
	_ = os.Remove(c.ready)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), c.environ...)
	cmd.Stdout, cmd.Stderr = c.t.Output(), c.t.Output()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.cmd = cmd
	c.mu.Unlock()
	eventually(c.t, func() error {
		text, err := os.ReadFile(c.ready)
		if err != nil {
			return err
		}
		var is struct{ Addresses map[string]string }
		if err := json.Unmarshal(text, &is); err != nil {
			return err
		}
		c.url = "http://" + is.Addresses["http"]
		return nil
	})
}

// kill ends the process with SIGKILL. A second call waits for the first.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // the state is known: killed
	c.cmd = nil
}

// send sends a request of the buyer's. It fails when the process dies.
func (c *child) send(method, path, key string, body any) (status int, answer []byte, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(string(text)))
	if err != nil {
		return 0, nil, err
	}
	r.Close = true
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	c.issuer.SignIn(r, "buyer")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// eventually waits for what nothing signals.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %v", err)
		}
	}
}

// TestCrash kills the service wherever it takes money or gives it back. It takes
// it once, gives it back once, tells everybody once, and a request that is
// repeated carries on with the same payment.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts and kills processes: not with -short")
	}
	stripe := stripetest.New(t)
	broker, err := jetstreamserver.Start(jetstreamserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Shutdown)
	dir := t.TempDir()
	c := &child{t: t, issuer: sessiontest.New(t), ready: filepath.Join(dir, "ready.json")}
	c.environ = append(withStripe(stripe, "PAYMENT_TIMEOUT=1s", "PAYMENT_RECOVERY=100ms"),
		childVariable+"=1", "DATABASE_URL=sqlite:"+filepath.Join(dir, "payments.db"), "READY_FILE="+c.ready,
		"HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=127.0.0.1:0", "HTTP_REQUEST_TIMEOUT=1s", "LOG_LEVEL=ERROR",
		"SESSION_JWKS_URL="+c.issuer.Config.JWKSURL, "BROKER=jetstream", "JETSTREAM_URL="+broker.URL(), "CLIENT_ID=payments")
	c.start()
	t.Cleanup(c.kill)

	peer := eventtest.NewPeer(t, jetstream.New(jetstream.Config{URL: broker.URL(), ClientID: "peer"}, nil), orders.Created{}, orders.PaymentRefused{})
	eventtest.Hear[payments.Captured](peer)
	eventtest.Hear[payments.Refunded](peer)
	peer.Start()

	// Where it is killed: when Stripe is asked for something, when Stripe has done
	// it, and some time after the answer, while it is written down and told.
	type point struct {
		before bool
		after  time.Duration
	}
	points := []point{{before: true}, {}, {after: time.Millisecond}, {after: 3 * time.Millisecond}, {after: 10 * time.Millisecond}}
	var mu sync.Mutex
	var killed chan struct{} // closed once; nil when it is to live
	var at point
	var where string
	arm := func(path string, p point) <-chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		where, at, killed = path, p, make(chan struct{})
		return killed
	}
	strike := func(call stripetest.Call, before bool) bool {
		mu.Lock()
		defer mu.Unlock()
		if killed == nil || call.Path != where || call.Method != http.MethodPost || at.before != before {
			return false
		}
		done, after := killed, at.after
		killed = nil
		if after > 0 {
			go func() { // the answer is on its way
				time.Sleep(after)
				c.kill()
				close(done)
			}()
			return true
		}
		c.kill()
		close(done)
		return true
	}
	stripe.Fault = func(call stripetest.Call) stripetest.Fault {
		if strike(call, true) {
			return stripetest.Refused
		}
		return stripetest.NoFault
	}
	stripe.Done = func(call stripetest.Call) { strike(call, false) }

	type sale struct{ order, payment string }
	var sales []sale
	for i, p := range points {
		for _, path := range []string{"/v1/payment_intents", "/v1/refunds"} {
			s := sale{order: fmt.Sprintf("o%d%s", i, filepath.Base(path))}
			peer.Publish(orders.Created{ID: s.order, UserID: "buyer", ExpiresAt: time.Now().Add(time.Hour), Ticket: orders.Ticket{ID: "t", Price: 1999}})
			pay := func() error {
				status, answer, err := c.send("POST", "/api/payments", "key-"+s.order, input{"orderId": s.order, "token": stripetest.Visa})
				if err != nil || status != http.StatusCreated {
					return fmt.Errorf("payment of %s: %d %s, %w", s.order, status, answer, err)
				}
				var paid struct{ ID string }
				if err := json.Unmarshal(answer, &paid); err != nil {
					return err
				}
				if s.payment != "" && s.payment != paid.ID {
					t.Errorf("%s is paid by %s, and by %s", s.order, s.payment, paid.ID)
				}
				s.payment = paid.ID
				return nil
			}
			if path == "/v1/payment_intents" {
				done := arm(path, p)
				eventually(t, func() error { // the order is known by and by, and then it is killed
					err := pay()
					select {
					case <-done:
						return nil
					default:
						return errors.Join(errors.New("nobody was killed"), err)
					}
				})
				c.start()
				eventually(t, pay)
			} else {
				eventually(t, pay)
				done := arm(path, p)
				peer.Publish(orders.PaymentRefused{ID: s.order, PaymentID: s.payment})
				<-done
				c.start()
				eventtest.AwaitEqual(peer, payments.Refunded{ID: s.payment, OrderID: s.order})
			}
			if err := pay(); err != nil { // once more
				t.Error(err)
			}
			eventtest.AwaitEqual(peer, payments.Captured{ID: s.payment, OrderID: s.order, Amount: 1999, Currency: "usd"})
			sales = append(sales, s)
		}
	}

	// Whoever tells something twice has done so before it hears of this one.
	peer.Publish(orders.Created{ID: "last", UserID: "buyer", ExpiresAt: time.Now().Add(time.Hour), Ticket: orders.Ticket{ID: "t", Price: 1999}})
	eventually(t, func() error {
		status, answer, err := c.send("POST", "/api/payments", "", input{"orderId": "last", "token": stripetest.Visa})
		if err != nil || status != http.StatusCreated {
			return fmt.Errorf("the last payment: %d %s, %w", status, answer, err)
		}
		return nil
	})
	eventtest.Await(peer, func(e payments.Captured) bool { return e.OrderID == "last" })
	captured, refunded := map[string]int{}, map[string]int{}
	for _, e := range eventtest.Heard[payments.Captured](peer) {
		captured[e.ID]++
	}
	for _, e := range eventtest.Heard[payments.Refunded](peer) {
		refunded[e.ID]++
	}
	taken, returned := stripe.Taken(), stripe.Refunds()
	if len(taken) != len(sales)+1 {
		t.Errorf("%d payments took money, want %d", len(taken), len(sales)+1)
	}
	for _, s := range sales {
		refunds := 0
		if strings.HasSuffix(s.order, "refunds") {
			refunds = 1
		}
		if n := len(taken[s.payment]); n != 1 {
			t.Fatalf("%d charges for payment %s of %s", n, s.payment, s.order)
		}
		if n := len(returned[taken[s.payment][0].ID]); n != refunds {
			t.Errorf("%d refunds of payment %s of %s, want %d", n, s.payment, s.order, refunds)
		}
		if captured[s.payment] != 1 || refunded[s.payment] != refunds {
			t.Errorf("payment %s of %s was told of as captured %d times and as refunded %d times", s.payment, s.order, captured[s.payment], refunded[s.payment])
		}
		status, answer, err := c.send("GET", "/api/payments?orderId="+s.order, "", nil)
		var all []payment
		if err == nil {
			err = json.Unmarshal(answer, &all)
		}
		want := map[int]string{0: "captured", 1: "refunded"}[refunds]
		if err != nil || status != http.StatusOK || len(all) != 1 || all[0].Status != want {
			t.Errorf("payments of %s: %d %s, %v; want one that is %s", s.order, status, answer, err, want)
		}
	}
}
