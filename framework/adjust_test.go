package framework_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/turnstile-go/turnstile/framework"
)

// pool is a part whose size may change while it runs.
type pool struct {
	bare
	size chan string
}

func (p pool) Adjust() map[string]func(string) error {
	return map[string]func(string) error{"POOL_SIZE": func(value string) error {
		if value == "0" {
			return errors.New("want 1 or more")
		}
		p.size <- value
		return nil
	}}
}

func TestSettingsChangeAndGoBack(t *testing.T) {
	t.Parallel()
	size := make(chan string, 10)
	services := make(chan *framework.Service, 1)
	run(t, func(s *framework.Service) error {
		s.Add("pool", pool{waits, size})
		services <- s
		return nil
	}, "POOL_SIZE=4", "LOG_LEVEL=").ready() // which is INFO then
	s := <-services
	expect := func(changed map[string]string, refused, want string, level slog.Level) {
		t.Helper()
		err := s.Adjust(changed)
		if refused == "" && err != nil || refused != "" && (err == nil || !strings.Contains(err.Error(), refused)) {
			t.Errorf("Adjust(%v) = %v, want %q", changed, err, refused)
		}
		got := ""
		select {
		case got = <-size:
		default:
		}
		if got != want || s.LogLevel.Level() != level {
			t.Errorf("Adjust(%v) sets %q and %s, want %q and %s", changed, got, s.LogLevel.Level(), want, level)
		}
	}
	expect(map[string]string{"POOL_SIZE": "8", "LOG_LEVEL": "DEBUG"}, "", "8", slog.LevelDebug)
	expect(map[string]string{"POOL_SIZE": "8", "LOG_LEVEL": "DEBUG"}, "", "", slog.LevelDebug) // nothing is new
	// What is refused stays as it is; the rest takes effect.
	expect(map[string]string{"POOL_SIZE": "0"}, `POOL_SIZE is "0", want 1 or more; it stays "8"`, "", slog.LevelInfo)
	expect(map[string]string{"POOL_SIZE": "9", "LOG_LEVEL": "loud"}, "want DEBUG, INFO, WARN or ERROR", "9", slog.LevelInfo)
	expect(map[string]string{"POOL_SIZE": "9", "COLOUR": "red"}, "COLOUR cannot be changed while the service runs: what can is LOG_LEVEL, POOL_SIZE", "", slog.LevelInfo)
	// What is not in there any more, or empty, goes back.
	expect(map[string]string{"POOL_SIZE": ""}, "", "4", slog.LevelInfo)
	expect(map[string]string{"POOL_SIZE": "5"}, "", "5", slog.LevelInfo)
	expect(nil, "", "4", slog.LevelInfo)
}

func TestDescribeSaysWhatMayChange(t *testing.T) {
	t.Parallel()
	d, err := describe(t, func(s *framework.Service, _ ordersConfig) error {
		s.Add("events", picky{waits})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range d["configuration"].([]any) {
		v := v.(map[string]any)
		if name := v["name"]; (name == "LOG_LEVEL" || name == "EVENT_WORKERS") != (v["adjustable"] == true) {
			t.Errorf("%s is described as %v", name, v)
		}
	}
}

func TestNoticesAreToldWhateverTheLevelOfTheLog(t *testing.T) {
	t.Parallel()
	var told []framework.Notice
	services := make(chan *framework.Service, 1)
	s := run(t, func(s *framework.Service) error {
		s.OnNotice(func(n framework.Notice) { told = append(told, n) })
		services <- s
		return nil
	}, "LOG_LEVEL=ERROR")
	s.ready()
	log := (<-services).Log
	log.Info("the broker is back", "notice", "BrokerRegained")
	log.With("part", "events").Warn("the broker is lost", "broker", "stan", "notice", "BrokerLost", "err", errors.New("EOF"))
	log.Debug("not so important", "notice", "Detail")
	log.Warn("no notice")
	if len(told) != 2 || told[0].Reason != "BrokerRegained" || told[0].Text != "the broker is back" || told[0].Level != slog.LevelInfo ||
		told[1].Reason != "BrokerLost" || told[1].Text != "the broker is lost (broker=stan, err=EOF)" || told[1].Level != slog.LevelWarn || told[1].Time.IsZero() {
		t.Errorf("told %+v", told)
	}
	if strings.Contains(s.log.String(), "the broker is lost") {
		t.Error("logged below the level of the log")
	}
}

// drains is a part that sees to it that no new work comes.
type drains struct {
	bare
	drain func(ctx context.Context) error
}

func (d drains) Drain(ctx context.Context) error { return d.drain(ctx) }

func TestServesUntilAllHaveDrained(t *testing.T) {
	t.Parallel()
	var j journal
	draining, drained := make(chan struct{}), make(chan struct{})
	s := run(t, func(s *framework.Service) error {
		s.Add("kubernetes", drains{waits, func(context.Context) error {
			close(draining)
			<-drained
			j.add("drained")
			return nil
		}})
		s.Add("fails", drains{waits, func(context.Context) error { return errors.New("no rights") }})
		s.Add("http", j.part("http"))
		return nil
	})
	admin := "http://" + s.ready()["admin"]
	s.signal()
	<-draining
	if p := ask(t, admin+"/readyz"); p.Code != 503 || p.Status != "draining" {
		t.Errorf("/readyz answers %+v", p)
	}
	if line := s.logs("part does not drain"); line["part"] != "fails" || line["error"] != "no rights" {
		t.Errorf("logged %v", line)
	}
	if got := j.String(); got != "start http" {
		t.Errorf("happened before all had drained: %s", got)
	}
	close(drained)
	if err := s.ended(); err != nil {
		t.Fatal(err)
	}
	if got, want := j.String(), "start http, drained, stop http"; got != want {
		t.Errorf("happened: %s, want %s", got, want)
	}
}

// A part that fails ends the drain of the others.
func TestDrainEndsWithTheService(t *testing.T) {
	t.Parallel()
	draining, ended := make(chan struct{}), make(chan struct{})
	s := run(t, func(s *framework.Service) error {
		s.Add("kubernetes", drains{waits, func(ctx context.Context) error {
			close(draining)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		}})
		s.Add("database", bare(func(context.Context) error { <-draining; return errors.New("the disk is full") }))
		return nil
	})
	s.ready()
	s.signal()
	if err := s.ended(); err == nil || !strings.Contains(err.Error(), "part database: the disk is full") {
		t.Errorf("Run = %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("Drain was not told")
	}
}
