package event

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// maxWorkers is the most handlers that may run at once: there are as many lanes.
const maxWorkers = 256

// workers has batches of events applied, a limited number at once. Each key is
// in one of many lanes, and a lane in one batch at a time: so are the events of
// a key, in the order in which they came. The limit may change at any time.
type workers struct {
	apply func(batch []*arrival)
	most  int // events in a batch
	room  int // events that may wait
	seed  maphash.Seed
	lanes [maxWorkers]lane
	freed bell // there is room again

	mu      sync.Mutex
	open    bool // what waits may begin
	limit   int  // how many batches and attempts of the sweep may run at once
	running int
	waiting int    // events
	queue   []next // who may begin when another has finished
	batches map[*portion]struct{}
	work    sync.WaitGroup
}

// lane has the events of some keys that wait.
type lane struct {
	events []*arrival
	busy   bool // it is queued, or in a batch that runs
}

// next is a lane with events or somebody who waits to be granted an attempt.
type next struct {
	lane    *lane
	granted chan struct{}
}

// portion is a batch and the lanes that it was taken from.
type portion struct {
	events []*arrival
	lanes  []*lane
}

func newWorkers(limit, most, room int) *workers {
	return &workers{limit: limit, most: most, room: room, seed: maphash.MakeSeed(), batches: map[*portion]struct{}{}}
}

// run has what waits applied until stop is done, and then returns when the
// batches under way are finished.
func (w *workers) run(stop context.Context, apply func(batch []*arrival)) {
	w.mu.Lock()
	w.apply, w.open = apply, true
	w.begin()
	w.mu.Unlock()
	<-stop.Done()
	w.mu.Lock()
	w.open = false
	w.mu.Unlock()
	w.work.Wait()
}

// add takes an event, unless over is done before there is room.
func (w *workers) add(over context.Context, a *arrival) {
	for {
		freed := w.freed.heard()
		if w.put(a) {
			return
		}
		select {
		case <-freed:
		case <-over.Done():
			return
		}
	}
}

func (w *workers) put(a *arrival) bool {
	var h maphash.Hash
	h.SetSeed(w.seed)
	_, _ = h.WriteString(a.Stream)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(a.Key)
	lane := &w.lanes[h.Sum64()%maxWorkers]

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting >= w.room {
		return false
	}
	w.waiting++
	lane.events = append(lane.events, a)
	if !lane.busy {
		lane.busy = true
		w.queue = append(w.queue, next{lane: lane})
		w.begin()
	}
	return true
}

// begin begins what the limit allows. The lock is held.
func (w *workers) begin() {
	for w.open && w.running < w.limit && len(w.queue) > 0 {
		w.running++
		if granted := w.queue[0].granted; granted != nil {
			w.queue = w.queue[1:]
			close(granted)
			continue
		}
		b := w.take()
		w.batches[b] = struct{}{}
		w.work.Go(func() {
			w.apply(b.events)
			w.finish(b)
		})
	}
}

// take makes a batch of the lanes that have waited longest, leaving the other
// workers their share. The lock is held.
func (w *workers) take() *portion {
	ready := 0
	for _, n := range w.queue {
		if n.lane != nil {
			ready++
		}
	}
	share := (ready + w.limit - 1) / w.limit
	b := &portion{}
	w.queue = slices.DeleteFunc(w.queue, func(n next) bool {
		left := w.most - len(b.events)
		if n.lane == nil || len(b.lanes) == share || left == 0 {
			return false
		}
		taken := min(left, len(n.lane.events))
		b.events = append(b.events, n.lane.events[:taken]...)
		if n.lane.events = n.lane.events[taken:]; len(n.lane.events) == 0 {
			n.lane.events = nil // an append would keep the array that is behind us
		}
		b.lanes = append(b.lanes, n.lane)
		return true
	})
	w.waiting -= len(b.events)
	w.freed.ring()
	return b
}

func (w *workers) finish(b *portion) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.batches, b)
	for _, lane := range b.lanes {
		if lane.busy = len(lane.events) > 0; lane.busy {
			w.queue = append(w.queue, next{lane: lane})
		}
	}
	w.running--
	w.begin()
}

// acquire waits until an attempt of the sweep may begin; release follows. It is
// false if stop is done before.
func (w *workers) acquire(stop context.Context) bool {
	granted := make(chan struct{})
	w.mu.Lock()
	w.queue = append(w.queue, next{granted: granted})
	w.begin()
	w.mu.Unlock()
	select {
	case <-granted:
		return true
	case <-stop.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.queue)
	w.queue = slices.DeleteFunc(w.queue, func(n next) bool { return n.granted == granted })
	return len(w.queue) == before // it has been granted all the same
}

func (w *workers) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running--
	w.begin()
}

// resize changes how many may run at once. What runs is not interrupted.
func (w *workers) resize(limit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
	w.begin()
}

func (w *workers) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}

// oldest returns by stream when the oldest event of the batches under way was
// committed.
func (w *workers) oldest() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]time.Time{}
	for b := range w.batches {
		for _, a := range b.events {
			if old, ok := all[a.Stream]; a.malformed == nil && (!ok || a.Time.Before(old)) {
				all[a.Stream] = a.Time
			}
		}
	}
	return all
}
