package kube_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/framework"
	"github.com/turnstile-go/turnstile/framework/kube"
)

// part is a part of a service with nothing but Run.
type part func(ctx context.Context) error

func (p part) Run(ctx context.Context) error { return p(ctx) }

// term is what one process did as the leader.
type term struct {
	pod string
	ctx context.Context
	end chan struct{} // closed by the test for do to return by itself
}

// leader returns the build function of a service that leads the task prune, and tells of its terms.
func leader(pod string, terms chan<- *term) func(s *framework.Service, p *kube.Pod) error {
	return func(s *framework.Service, p *kube.Pod) error {
		lead := p.Lead("prune")
		s.Add("pruning", part(func(ctx context.Context) error {
			err := lead(ctx, "prune", func(ctx context.Context) {
				t := &term{pod, ctx, make(chan struct{})}
				terms <- t
				select {
				case <-ctx.Done():
				case <-t.end:
				}
			})
			<-ctx.Done()
			return err
		}))
		return nil
	}
}

func TestLeaseThatIsReleasedIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	credentials := c.credentials(nil)
	terms := make(chan *term, 10)
	a := run(t, c.namespace, "orders-a", credentials, leader("orders-a", terms))
	first := within(t, "orders-a leads", terms)
	b := run(t, c.namespace, "orders-b", credentials, leader("orders-b", terms))
	// It waits once it is seen in the lease's way: it has read the lease, and watches.
	lease, err := c.CoordinationV1().Leases(c.namespace).Get(t.Context(), "orders-prune", metav1.GetOptions{})
	if err != nil || !strings.HasPrefix(*lease.Spec.HolderIdentity, "orders-a_") || *lease.Spec.LeaseDurationSeconds != 15 {
		t.Fatalf("the lease: %+v, %v", lease.Spec, err)
	}
	began := time.Now()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	second := within(t, "orders-b leads", terms)
	took := time.Since(began)
	if second.pod != "orders-b" || first.ctx.Err() == nil {
		t.Errorf("%s leads, and orders-a still does: %v", second.pod, first.ctx.Err() == nil)
	}
	if took > 5*time.Second { // a lease that is not released lasts 15 s
		t.Errorf("handed over after %s", took)
	}
	t.Logf("handed over %s after the leader was told to stop", took.Round(time.Millisecond))

	// Who is done lets the lease go as well.
	close(second.end)
	until(t, "the lease is nobody's", func() error {
		lease, err := c.CoordinationV1().Leases(c.namespace).Get(t.Context(), "orders-prune", metav1.GetOptions{})
		if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
			err = fmt.Errorf("it is %s's", *lease.Spec.HolderIdentity)
		}
		return err
	})
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
}

// A process that the API server no longer hears of has stopped the task before another begins it.
func TestLeaderThatIsCutOffIsSucceeded(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	link, through := c.link()
	terms := make(chan *term, 10)
	run(t, c.namespace, "orders-a", c.credentials(through), leader("orders-a", terms), "KUBE_LEASE_DURATION=6s")
	first := within(t, "orders-a leads", terms)
	run(t, c.namespace, "orders-b", c.credentials(nil), leader("orders-b", terms), "KUBE_LEASE_DURATION=6s")
	cut := time.Now()
	link.cut()
	within(t, "orders-a gives up", first.ctx.Done())
	gaveUp := time.Since(cut)
	second := within(t, "another leads", terms)
	took := time.Since(cut)
	if second.pod != "orders-b" {
		t.Errorf("%s leads", second.pod)
	}
	// It counts from before its last request, the other from after it.
	if took-gaveUp < time.Second || took > 15*time.Second {
		t.Errorf("gave up after %s, handed over after %s", gaveUp, took)
	}
	t.Logf("with a lease of 6 s: gave up after %s, handed over after %s", gaveUp.Round(time.Millisecond), took.Round(time.Millisecond))

	// It is a candidate again when it can be.
	link.mend()
	close(second.end)
	if third := within(t, "orders-a leads again", terms); third.pod != "orders-a" {
		t.Errorf("%s leads", third.pod)
	}
}

// A short loss of the API server costs nobody the lease.
func TestLeaderOutlivesAShortLoss(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	link, through := c.link()
	terms := make(chan *term, 10)
	a := run(t, c.namespace, "orders-a", c.credentials(through), leader("orders-a", terms), "KUBE_LEASE_DURATION=15s")
	first := within(t, "orders-a leads", terms)
	link.cut()
	a.logged("who does the task is not known; trying again")
	link.mend()
	a.logged("the API server answers again")
	if first.ctx.Err() != nil {
		t.Error("it gave up")
	}
}

// Many want a lease that comes free again and again: never do two have it.
func TestOneLeadsAtATime(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	credentials := c.credentials(nil)
	const enoughTerms = 10
	var leading, terms atomic.Int32
	enough := make(chan struct{})
	var once sync.Once
	for i := range 4 {
		pod := fmt.Sprint("orders-", i)
		run(t, c.namespace, pod, credentials, func(s *framework.Service, p *kube.Pod) error {
			lead := p.Lead("prune")
			s.Add("pruning", part(func(ctx context.Context) error {
				for ctx.Err() == nil {
					if err := lead(ctx, "prune", func(context.Context) {
						if n := leading.Add(1); n != 1 {
							t.Errorf("%d lead", n)
						}
						if terms.Add(1) == enoughTerms {
							once.Do(func() { close(enough) })
						}
						leading.Add(-1)
					}); err != nil {
						return err
					}
				}
				return nil
			}))
			return nil
		}, "KUBE_LEASE_DURATION=6s")
	}
	within(t, "led often", enough)
}

func TestLeaseThatIsDeletedIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	terms := make(chan *term, 10)
	run(t, c.namespace, "orders-a", c.credentials(nil), leader("orders-a", terms), "KUBE_LEASE_DURATION=3s")
	first := within(t, "orders-a leads", terms)
	if err := c.CoordinationV1().Leases(c.namespace).Delete(t.Context(), "orders-prune", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	within(t, "it gives up", first.ctx.Done())
	within(t, "it leads anew", terms)
}

func TestTaskWithoutARightToItsLease(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.grant("prune")
	refused := make(chan error, 1)
	run(t, c.namespace, "orders-a", c.credentials(nil), func(s *framework.Service, p *kube.Pod) error {
		lead := p.Lead("prune")
		s.Add("recovery", part(func(ctx context.Context) error {
			refused <- lead(ctx, "recovery", func(context.Context) { t.Error("led") })
			<-ctx.Done()
			return nil
		}))
		return nil
	})
	if err := within(t, "an answer", refused); err == nil || !strings.Contains(err.Error(), `the task "recovery": give its name to Lead`) {
		t.Errorf("Lead = %v", err)
	}
}
