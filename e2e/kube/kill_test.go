package kube

import (
	"testing"
	"time"

	core "k8s.io/api/core/v1"
)

// TestKill kills containers and deletes pods of everything that runs while people use the application. It measures how
// long it takes until all is well again; in the end nothing was lost or done twice.
func TestKill(t *testing.T) {
	a := deployed(t)
	type harm struct {
		name string
		do   func(t *testing.T) (victim *core.Pod)
	}
	kill := func(workload string) harm {
		return harm{"kill " + workload, func(t *testing.T) *core.Pod {
			needNode(t)
			p := &a.pods(t, workload)[0]
			a.kill(t, p)
			return p
		}}
	}
	remove := func(workload string) harm {
		return harm{"delete " + workload, func(t *testing.T) *core.Pod {
			p := &a.pods(t, workload)[0]
			a.remove(t, p.Name, true)
			a.awaitEnd(t, p)
			return p
		}}
	}
	// A container that is killed twice within minutes is restarted after a pause; a new pod's is not.
	harms := []harm{kill("orders"), kill("nats-streaming"), kill("postgres"), remove("postgres"), {"delete the broker that leads", a.removeLeader}}
	if *full {
		harms = harms[:0]
		for _, name := range []string{"auth", "orders", "payments", "tickets", "nats-streaming", "postgres"} {
			harms = append(harms, kill(name), remove(name))
		}
		harms = append(harms, harm{"delete the broker that leads", a.removeLeader}, harm{"kill all services", func(t *testing.T) *core.Pod {
			needNode(t)
			var victims []core.Pod
			for _, name := range services {
				victims = append(victims, a.pods(t, name)...)
			}
			for i := range victims {
				a.kill(t, &victims[i])
			}
			return &victims[0]
		}})
	}
	tr := a.traffic(t)
	for _, h := range harms {
		t.Run(h.name, func(t *testing.T) {
			var people, all []time.Duration
			for range *rounds {
				p, r := a.recovery(t, h.do(t))
				people, all = append(people, p), append(all, r)
			}
			peopleMedian, peopleMost := median(people)
			allMedian, allMost := median(all)
			t.Logf("%s, %d times: a ticket is sold after %v, at most %v; all is ready after %v, at most %v",
				h.name, len(people), peopleMedian, peopleMost, allMedian, allMost)
		})
	}
	tr.finish(t, true)
}

// removeLeader deletes the broker's pod that leads the others, and waits until it has ended.
func (a *application) removeLeader(t *testing.T) *core.Pod {
	t.Helper()
	for _, p := range a.pods(t, "nats-streaming") {
		r, err := a.readiness(t.Context(), p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if r.Role == "leader" {
			a.remove(t, p.Name, true)
			a.awaitEnd(t, &p)
			return &p
		}
	}
	t.Fatal("no broker says that it leads")
	return nil
}
