package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/turnstile-go/turnstile/e2e/internal/journey"
)

// TestLeader ends the process that does a task which one alone does, and measures how long it takes until another does.
func TestLeader(t *testing.T) {
	a := deployed(t)
	const task = "payments-recovery"
	succeed := func(t *testing.T, end func(*core.Pod)) time.Duration {
		holder := a.holder(t, task)
		name, _, _ := strings.Cut(holder, "_")
		p, err := a.API.CoreV1().Pods(a.namespace).Get(t.Context(), name, meta.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		end(p)
		journey.Eventually(t, "another process holds the Lease "+task, func() error {
			lease, err := a.API.CoordinationV1().Leases(a.namespace).Get(t.Context(), task, meta.GetOptions{})
			if err != nil {
				return err
			}
			if h := lease.Spec.HolderIdentity; h == nil || *h == "" || *h == holder {
				return errNotYet
			}
			return nil
		})
		took := time.Since(begin)
		a.awaitReady(t)
		return took
	}
	for _, end := range []struct {
		how string
		do  func(*testing.T, *core.Pod)
	}{
		{"deleted", func(t *testing.T, p *core.Pod) { a.remove(t, p.Name, true) }},
		{"deleted without grace", func(t *testing.T, p *core.Pod) { a.remove(t, p.Name, false) }},
		{"killed", func(t *testing.T, p *core.Pod) {
			needNode(t)
			if err := a.Kill(t.Context(), p, "service"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(end.how, func(t *testing.T) {
			var took []time.Duration
			for range *rounds {
				took = append(took, succeed(t, func(p *core.Pod) { end.do(t, p) }))
			}
			middle, most := median(took)
			t.Logf("%s, %d times: another process leads after %v, at most %v", end.how, len(took), middle, most)
		})
	}
	journey.Purchase(t, a.site())
	a.audit(t)
}

// holder returns who holds a Lease, once somebody does.
func (a *application) holder(t *testing.T, lease string) (holder string) {
	t.Helper()
	journey.Eventually(t, "somebody holds the Lease "+lease, func() error {
		l, err := a.API.CoordinationV1().Leases(a.namespace).Get(t.Context(), lease, meta.GetOptions{})
		if err != nil {
			return err
		}
		if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
			return errors.New("nobody does")
		}
		holder = *l.Spec.HolderIdentity
		return nil
	})
	return holder
}
