package externalmetrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	keepFor    = time.Second     // so that many who ask are no load on the services
	askTimeout = 5 * time.Second // all of a service's pods, or one question to the API server
	podTimeout = 3 * time.Second // longer than a service gives its own database
	mostBytes  = 8 << 20         // of a pod's metrics
)

// service is a Service of Kubernetes.
type service struct{ namespace, name string }

func (s service) String() string { return s.namespace + "/" + s.name }

// missing is the error of asking for what is not there, and will not be soon.
type missing string

func (m missing) Error() string { return string(m) }

// lag is how far a service is behind.
type lag struct {
	at      time.Time // when it was asked
	seconds float64
}

// lags asks services how far they are behind.
type lags struct {
	cluster *cluster
	client  *http.Client
	log     *slog.Logger

	mu    sync.Mutex
	known map[service]*answer
}

// answer is what a service has answered last.
type answer struct {
	mu sync.Mutex // held while it is asked
	lag
	err error
}

func newLags(c *cluster, log *slog.Logger) *lags {
	return &lags{
		cluster: c, log: log, known: map[service]*answer{},
		client: &http.Client{Timeout: podTimeout, Transport: &http.Transport{IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 1}},
	}
}

// of returns how far the service is behind. The error is missing where it will
// be the same the next time.
func (l *lags) of(ctx context.Context, s service) (lag, error) {
	a := l.answer(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) > keepFor {
		// It is also for others, who do not go when this one does.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		a.seconds, a.err = l.ask(ctx, s)
		a.at = time.Now()
	}
	return a.lag, a.err
}

// answer returns the service's, and forgets those that nobody has asked for in a
// while.
func (l *lags) answer(s service) *answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[s] == nil {
		maps.DeleteFunc(l.known, func(_ service, old *answer) bool {
			if !old.mu.TryLock() {
				return false
			}
			defer old.mu.Unlock()
			return time.Since(old.at) > time.Minute
		})
		l.known[s] = &answer{}
	}
	return l.known[s]
}

// ask asks every ready pod. Those that answer suffice: one that does not would
// else hold up its own relief. The age is at least what they say.
func (l *lags) ask(ctx context.Context, s service) (float64, error) {
	addresses, err := l.cluster.pods(ctx, s)
	if err != nil {
		return 0, err
	}
	type reply struct {
		seconds float64
		err     error
	}
	replies := make(chan reply, len(addresses))
	for _, address := range addresses {
		go func() {
			seconds, err := l.askPod(ctx, address)
			replies <- reply{seconds, err}
		}()
	}
	most, answered, failed := 0.0, 0, []error{}
	for range addresses {
		r := <-replies
		if r.err != nil {
			failed = append(failed, r.err)
			continue
		}
		most, answered = max(most, r.seconds), answered+1
	}
	err = errors.Join(failed...)
	switch {
	case answered == 0 && allSilent(failed):
		return 0, missing(fmt.Sprintf("Service %s does not measure %s: does it listen to events?", s, Metric))
	case answered == 0:
		return 0, fmt.Errorf("no pod of Service %s answers: %w", s, err)
	case err != nil:
		l.log.WarnContext(ctx, "not all pods answer", "service", s.String(), "answered", answered, "error", err)
	}
	return most, nil
}

// errSilent is of a pod that does not measure the metric.
var errSilent = errors.New("it does not measure " + Metric)

func allSilent(all []error) bool {
	for _, err := range all {
		if !errors.Is(err, errSilent) {
			return false
		}
	}
	return true
}

func (l *lags) askPod(ctx context.Context, address string) (float64, error) {
	url := "http://" + address + "/metrics"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := l.client.Do(request)
	if err != nil {
		return 0, err // it names the URL
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", url, response.Status)
	}
	seconds, err := highest(io.LimitReader(response.Body, mostBytes))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", url, err)
	}
	return seconds, nil
}

// highest returns the highest value of the metric, which has one for each stream.
func highest(text io.Reader) (most float64, err error) {
	found := false
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		sample, ok := strings.CutPrefix(lines.Text(), Metric)
		if !ok || sample == "" || sample[0] != '{' && sample[0] != ' ' {
			continue
		}
		number := sample[strings.LastIndexByte(sample, '}')+1:]
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
			return 0, fmt.Errorf("%s%s: want a number of seconds", Metric, sample)
		}
		most, found = max(most, n), true
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, errSilent
	}
	return most, nil
}
