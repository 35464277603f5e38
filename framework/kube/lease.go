package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"github.com/turnstile-go/turnstile/framework"
)

// Lead returns how the processes of the service agree who does a task, which is what event.Config.Lead takes; outside of
// a cluster that is nil. The tasks are all that it will be asked for, named like DNS labels: the pod needs a right for
// the Lease of each, named by the service and the task.
//
// The election is that of client-go (k8s.io/client-go/tools/leaderelection), and gets along with it: who holds the Lease
// renews it; who does not takes it once it has been seen unchanged for as long as it lasts, by the own clock, and the
// API server lets one of several succeed. No two clocks are compared. It differs in that the time in which a holder
// has to renew counts from before its last request, and that who waits watches the Lease and so takes it at once when it
// is released.
func (p *Pod) Lead(tasks ...string) func(ctx context.Context, task string, do func(ctx context.Context)) error {
	p.tasks = append(p.tasks, tasks...)
	if p.api == nil {
		return nil
	}
	return p.lead
}

func leaseName(s *framework.Service, task string) string { return s.Name + "-" + task }

// lead calls do whenever this process is elected, until ctx is done or do returns by itself.
func (p *Pod) lead(ctx context.Context, task string, do func(ctx context.Context)) error {
	if !slices.Contains(p.tasks, task) {
		return fmt.Errorf("kube: the pod has no right to the Lease of the task %q: give its name to Lead", task)
	}
	log := p.service.Log.With("task", task)
	c := &candidate{
		leases: p.api.leases(), name: leaseName(p.service, task), log: log,
		// A process that was killed may come back under the name of its pod.
		identity: p.service.Instance + "_" + uuid.NewString(),
		duration: p.cfg.LeaseDuration, deadline: p.cfg.LeaseDuration * 2 / 3, retry: p.cfg.LeaseDuration * 2 / 15,
		failing: trouble{log: log, what: "who does the task is not known"},
	}
	for {
		asked, elected := c.elect(ctx)
		if !elected || c.hold(ctx, asked, do) {
			return nil
		}
	}
}

// lease is a Lease.
type lease struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec leaseSpec `json:"spec"`
}

type leaseSpec struct {
	HolderIdentity       string           `json:"holderIdentity"`
	LeaseDurationSeconds int32            `json:"leaseDurationSeconds"`
	AcquireTime          metav1.MicroTime `json:"acquireTime"`
	RenewTime            metav1.MicroTime `json:"renewTime"`
	LeaseTransitions     int32            `json:"leaseTransitions"`
}

// candidate is one process that would do a task.
type candidate struct {
	leases                    dynamic.ResourceInterface
	name, identity            string
	duration, deadline, retry time.Duration
	log                       *slog.Logger
	failing                   trouble

	lease lease     // as it was last seen
	since time.Time // since when it has not been renewed, by the clock of this process
}

// see takes note of the lease.
func (c *candidate) see(u *unstructured.Unstructured) error {
	var l lease
	if err := decode(u, &l); err != nil {
		return err
	}
	if l.Spec.HolderIdentity != c.lease.Spec.HolderIdentity || !l.Spec.RenewTime.Equal(&c.lease.Spec.RenewTime) || l.UID != c.lease.UID {
		c.since = time.Now()
	}
	c.lease = l
	return nil
}

// left is for how long the lease is another's, also if it has been deleted since.
func (c *candidate) left() time.Duration {
	if c.lease.Spec.HolderIdentity == "" || c.lease.Spec.HolderIdentity == c.identity {
		return 0
	}
	return time.Until(c.since.Add(time.Duration(c.lease.Spec.LeaseDurationSeconds) * time.Second))
}

// elect returns when this process has the lease, with when it was asked for, or with false when ctx is done.
func (c *candidate) elect(ctx context.Context) (asked time.Time, elected bool) {
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer stop()
	changed := make(chan *unstructured.Unstructured) // nil if it is gone
	watched := false
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return asked, false
		case u := <-changed:
			if u != nil && c.see(u) == nil {
				if left := c.left(); left > 0 {
					look.Reset(left + rand.N(c.retry)) // not all at once
					continue
				}
			}
		case <-look.C:
		}
		asked = time.Now()
		elected, err := c.take(ctx)
		if elected {
			c.failing.set(ctx, nil)
			return asked, true
		}
		if ctx.Err() == nil {
			c.failing.set(ctx, err)
		}
		look.Reset(max(c.left(), c.retry/2) + rand.N(c.retry))
		if !watched {
			watched = true
			watcher.Go(func() { c.watch(watching, changed) })
		}
	}
}

// watch sends the lease to changed, now and whenever it has changed.
func (c *candidate) watch(ctx context.Context, changed chan<- *unstructured.Unstructured) {
	follow(ctx, c.leases, c.name, func(found []*unstructured.Unstructured) {
		var u *unstructured.Unstructured
		if len(found) > 0 {
			u = found[0]
		}
		select {
		case changed <- u:
		case <-ctx.Done():
		}
	}, func(error) {}) // without the watch, elect looks by itself
}

// take makes the lease this process's if it is nobody's or has not been renewed for as long as it lasts. One that is not
// there is nobody's once the last that was seen would have ended; who has seen none has nobody to wait for.
func (c *candidate) take(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(quiet(ctx), c.deadline/2)
	defer cancel()
	u, err := c.leases.Get(ctx, c.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if c.left() > 0 {
			return false, nil // who had it when it was deleted may not know yet
		}
		return c.won(c.create(ctx))
	}
	if err != nil {
		return false, fmt.Errorf("get Lease %s: %w", c.name, err)
	}
	if err := c.see(u); err != nil || c.left() > 0 {
		return false, err
	}
	return c.won(c.write(ctx, c.grant()))
}

// won tells a race that was lost from a failure.
func (c *candidate) won(err error) (bool, error) {
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	return err == nil, err
}

// grant is the lease as this process would have it.
func (c *candidate) grant() leaseSpec {
	now := metav1.NowMicro()
	spec := leaseSpec{
		HolderIdentity: c.identity, LeaseDurationSeconds: int32(c.duration / time.Second),
		AcquireTime: now, RenewTime: now, LeaseTransitions: c.lease.Spec.LeaseTransitions + 1,
	}
	if c.lease.Spec.HolderIdentity == c.identity {
		spec.AcquireTime, spec.LeaseTransitions = c.lease.Spec.AcquireTime, c.lease.Spec.LeaseTransitions
	}
	return spec
}

func (c *candidate) create(ctx context.Context) error {
	c.lease = lease{
		TypeMeta:   metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"},
		ObjectMeta: metav1.ObjectMeta{Name: c.name},
		Spec:       leaseSpec{LeaseTransitions: -1},
	}
	u, err := c.object(c.grant())
	if err != nil {
		return err
	}
	if u, err = c.leases.Create(ctx, u, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create Lease %s: %w", c.name, err)
	}
	return c.see(u)
}

// write changes the lease, if nobody else has since it was last seen.
func (c *candidate) write(ctx context.Context, spec leaseSpec) error {
	u, err := c.object(spec)
	if err != nil {
		return err
	}
	if u, err = c.leases.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update Lease %s: %w", c.name, err)
	}
	return c.see(u)
}

func (c *candidate) object(spec leaseSpec) (*unstructured.Unstructured, error) {
	l := c.lease
	l.Spec = spec
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&l)
	return &unstructured.Unstructured{Object: fields}, err
}

// errLost says that the lease is not this process's any more.
var errLost = errors.New("another process has the Lease, or it was deleted")

// rewrite changes the lease while this process holds it. What it wrote last may not be what it has seen, if an answer
// was lost.
func (c *candidate) rewrite(ctx context.Context, spec func() leaseSpec) error {
	ctx, cancel := context.WithTimeout(quiet(ctx), c.deadline/2)
	defer cancel()
	err := c.write(ctx, spec())
	if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return err
	}
	u, err := c.leases.Get(ctx, c.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errLost
	}
	if err != nil {
		return fmt.Errorf("get Lease %s: %w", c.name, err)
	}
	if err := c.see(u); err != nil {
		return err
	}
	if c.lease.Spec.HolderIdentity != c.identity {
		return errLost
	}
	return c.write(ctx, spec())
}

// hold does the task for as long as the lease can be renewed, and releases it when do has returned. It reports whether
// that was by itself, or because ctx is done.
func (c *candidate) hold(ctx context.Context, asked time.Time, do func(ctx context.Context)) (finished bool) {
	c.log.InfoContext(ctx, "lead: this process does the task")
	leading, end := context.WithCancelCause(ctx)
	expiry := time.AfterFunc(time.Until(asked.Add(c.deadline)), func() {
		end(fmt.Errorf("it could not be renewed for %s", c.deadline))
	})
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx)) // do may need a moment to return
	var renewer sync.WaitGroup
	lost := false
	renewer.Go(func() {
		ticker := time.NewTicker(c.retry)
		defer ticker.Stop()
		for {
			select {
			case <-renewing.Done():
				return
			case <-ticker.C:
			}
			asked := time.Now()
			err := c.rewrite(renewing, c.grant)
			switch {
			case errors.Is(err, errLost):
				lost = true
				end(errLost)
				return
			case err == nil && expiry.Stop(): // it has not ended meanwhile
				expiry.Reset(time.Until(asked.Add(c.deadline)))
			case renewing.Err() == nil:
				c.failing.set(renewing, err)
			}
			if err == nil {
				c.failing.set(renewing, nil)
			}
		}
	})
	defer func() {
		finished = ctx.Err() != nil || leading.Err() == nil
		if !finished {
			c.log.WarnContext(ctx, "lead: this process no longer does the task", "reason", context.Cause(leading))
		}
		stop()
		renewer.Wait()
		expiry.Stop()
		end(nil)
		if !lost {
			c.release(ctx)
		}
	}()
	do(leading)
	return false
}

// release lets whoever waits have the lease at once.
func (c *candidate) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := c.rewrite(ctx, func() leaseSpec {
		now := metav1.NowMicro()
		return leaseSpec{LeaseDurationSeconds: 1, AcquireTime: now, RenewTime: now, LeaseTransitions: c.lease.Spec.LeaseTransitions}
	})
	if err != nil && !errors.Is(err, errLost) {
		c.log.DebugContext(ctx, "lead: the Lease is not released; others wait until it ends", "error", err)
	}
}
