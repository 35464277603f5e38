package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/turnstile-go/turnstile/framework"
)

const (
	queueLength  = 100              // notices that wait for the recorder
	newAtOnce    = 10               // Events of one reason whose texts differ, and then
	newEvery     = 10 * time.Second // one so often
	countEvery   = 10 * time.Second // the same Event is counted up so often
	eventLife    = time.Hour        // the API server forgets Events after that
	eventTimeout = 5 * time.Second  // of one request
	pauseMin     = time.Second      // after a request that failed
	pauseMost    = 30 * time.Second
	flushLimit   = 2 * time.Second // for what is left at the end
	noteLimit    = 1024            // bytes that the API server takes
)

// recorder makes notices Events of the pod. The same notice again only counts its Event up, so that a storm of them is
// a request every ten seconds; different ones are limited, those of each reason by themselves, so that a storm of dead
// letters leaves room for the loss of a broker.
type recorder struct {
	events    dynamic.ResourceInterface
	pod       framework.Pod
	component string
	log       *slog.Logger

	queue   chan framework.Notice
	dropped atomic.Int64
	limits  map[string]*rate.Limiter // by reason, of which there are few
	told    map[string]*series       // by what is the same of them
	rest    time.Time                // no request before, because the last one failed
	pause   time.Duration
	failing trouble
}

// series is one Event and how often it has happened.
type series struct {
	notice      framework.Notice // the first
	name        string           // of the Event; empty if there is none yet
	count, sent int
	last        time.Time // happened
	due         time.Time // to be sent, if it has happened since
}

func newRecorder(a *api, s *framework.Service) *recorder {
	return &recorder{
		events: a.events(), pod: s.Pod, component: s.Name, log: s.Log,
		queue: make(chan framework.Notice, queueLength), limits: map[string]*rate.Limiter{},
		told: map[string]*series{}, failing: trouble{log: s.Log, what: "notices do not become Events"},
	}
}

// record takes a notice. It does not wait.
func (r *recorder) record(n framework.Notice) {
	select {
	case r.queue <- n:
	default:
		r.dropped.Add(1)
	}
}

// run sends what is recorded until ctx is done, and then what is left.
func (r *recorder) run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case n := <-r.queue:
			r.count(n)
		case <-next.C:
		case <-ctx.Done():
			r.flush(context.WithoutCancel(ctx))
			return
		}
		r.send(ctx, false)
		next.Reset(r.wait())
	}
}

// flush sends what is left, due or not.
func (r *recorder) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	for len(r.queue) > 0 {
		r.count(<-r.queue)
	}
	r.send(ctx, true)
	for _, s := range r.told {
		r.dropped.Add(int64(s.count - s.sent))
	}
	r.say(ctx)
}

// count puts a notice to the Event that it is.
func (r *recorder) count(n framework.Notice) {
	now := time.Now()
	maps.DeleteFunc(r.told, func(_ string, s *series) bool {
		if now.Sub(s.last) < eventLife {
			return false
		}
		r.dropped.Add(int64(s.count - s.sent))
		return true
	})
	key := strings.Join([]string{eventType(n), n.Reason, n.Text}, "\x00")
	s := r.told[key]
	if s == nil {
		limit := r.limits[n.Reason]
		if limit == nil {
			limit = rate.NewLimiter(rate.Every(newEvery), newAtOnce)
			r.limits[n.Reason] = limit
		}
		if !limit.Allow() {
			r.dropped.Add(1)
			return
		}
		s = &series{notice: n}
		r.told[key] = s
	}
	s.count++
	s.last = n.Time
}

// wait is how long there is nothing to send.
func (r *recorder) wait() time.Duration {
	wait := time.Minute
	for _, s := range r.told {
		if s.count > s.sent {
			wait = min(wait, time.Until(s.due))
		}
	}
	return max(wait, time.Until(r.rest))
}

// send sends the Events that are due, or all, what began first before others. After one that failed, the others wait too.
func (r *recorder) send(ctx context.Context, all bool) {
	if !all && time.Now().Before(r.rest) {
		return
	}
	oldest := func(a, b *series) int { return a.notice.Time.Compare(b.notice.Time) }
	for _, s := range slices.SortedFunc(maps.Values(r.told), oldest) {
		if s.count == s.sent || !all && time.Now().Before(s.due) {
			continue
		}
		count := s.count
		err := r.tell(ctx, s)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !refused(err):
			r.failing.set(ctx, err)
			r.pause = min(max(2*r.pause, pauseMin), pauseMost)
			r.rest = time.Now().Add(r.pause)
			if !all {
				return
			}
			continue
		case err != nil:
			r.failing.set(ctx, err)
			r.dropped.Add(int64(count - s.sent))
		default:
			r.failing.set(ctx, nil)
			r.pause = 0
		}
		s.sent, s.due = count, time.Now().Add(countEvery)
	}
	r.say(ctx)
}

// say logs what people will not see as Events.
func (r *recorder) say(ctx context.Context) {
	if n := r.dropped.Swap(0); n > 0 {
		r.log.WarnContext(ctx, "kubernetes: notices did not become Events, they are in this log", "notices", n)
	}
}

// refused reports whether to ask again is of no use. What is forbidden may be allowed in a moment: rights are made at the
// same time as pods.
func refused(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) }

// tell creates the Event, or counts it up.
func (r *recorder) tell(ctx context.Context, s *series) error {
	ctx, cancel := context.WithTimeout(quiet(ctx), eventTimeout)
	defer cancel()
	if s.name != "" {
		patch, err := json.Marshal(map[string]any{"series": seriesOf(s)})
		if err != nil {
			return err
		}
		_, err = r.events.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	event := r.event(s)
	if _, err := r.events.Create(ctx, event, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	s.name = event.GetName()
	return nil
}

func eventType(n framework.Notice) string {
	if n.Level >= slog.LevelWarn {
		return "Warning"
	}
	return "Normal"
}

func seriesOf(s *series) map[string]any {
	return map[string]any{"count": int64(s.count), "lastObservedTime": microTime(s.last)}
}

func microTime(t time.Time) string { return t.UTC().Format(metav1.RFC3339Micro) }

// event is a series as the API server takes it.
func (r *recorder) event(s *series) *unstructured.Unstructured {
	n := s.notice
	fields := map[string]any{
		"apiVersion":          "events.k8s.io/v1",
		"kind":                "Event",
		"metadata":            map[string]any{"name": fmt.Sprintf("%.236s.%x", r.pod.Name, s.last.UnixNano())},
		"eventTime":           microTime(n.Time),
		"type":                eventType(n),
		"reason":              cut(n.Reason, 128),
		"action":              cut(n.Reason, 128),
		"note":                cut(n.Text, noteLimit),
		"reportingController": r.component,
		"reportingInstance":   cut(r.pod.Name, 128),
		"regarding": map[string]any{
			"apiVersion": "v1", "kind": "Pod", "namespace": r.pod.Namespace, "name": r.pod.Name, "uid": r.pod.UID,
		},
	}
	if s.count > 1 {
		fields["series"] = seriesOf(s)
	}
	return &unstructured.Unstructured{Object: fields}
}

// cut shortens text to so many bytes.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= limit {
		return text
	}
	const more = "…"
	end := limit - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
