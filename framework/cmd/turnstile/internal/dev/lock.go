package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// holder is who holds a lock.
type holder struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
}

// LockedError is a folder that another process of turnstile works in.
type LockedError struct {
	Dir string
	holder
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another turnstile works in %s already; stop it first", e.Dir)
	}
	return fmt.Sprintf("turnstile works in %s already: pid %d, %s; stop it first (kill %d)", e.Dir, e.PID, e.URL, e.PID)
}

// lock takes a folder for this process, whose gateway is at url. The kernel holds the lock, so that it ends with the
// process however that ends; what the file says only serves the message. The folder is free again when the returned
// file is closed.
func lock(dir, url string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		locked := &LockedError{Dir: dir}
		_ = json.NewDecoder(f).Decode(&locked.holder) // the message can do without
		return nil, locked
	}
	text, err := json.Marshal(holder{PID: os.Getpid(), URL: url})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}
