// Package filelock keeps two servers from using one directory: a lock is held
// against other processes and this one, and ends with the process however that
// ends.
package filelock

import "errors"

// ErrLocked says that somebody else has the lock.
var ErrLocked = errors.New("locked")
