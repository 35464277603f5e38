package fleet

import (
	"context"
	"fmt"
	"time"
)

// Roll replaces a replica by one that is configured otherwise (NAME=value), as a rolling update does: requests go to the
// others, it ends in order, and its successor gets requests once it is ready.
func (f *Fleet) Roll(ctx context.Context, s *Service, env ...string) error {
	s.leaving.Store(true)
	tick := time.NewTicker(poll / 10)
	defer tick.Stop()
	for s.requests.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("take %s out of service: %w", s.Name, ctx.Err())
		}
	}
	if err := s.Stop(grace); err != nil {
		return err
	}
	s.Configure(env...)
	if err := s.Start(); err != nil {
		return err
	}
	if err := f.AwaitReady(ctx); err != nil {
		return err
	}
	s.leaving.Store(false)
	return nil
}

// take reports whether the replica takes a request now. Then done is due.
func (s *Service) take() bool {
	s.requests.Add(1)
	if s.leaving.Load() || !s.Running() {
		s.done()
		return false
	}
	return true
}

func (s *Service) done() { s.requests.Add(-1) }
