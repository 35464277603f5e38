//go:build !unix

package filelock

import (
	"errors"

	"github.com/nats-io/nats-streaming-server/util"
)

// Lock locks the file at path, which is made if missing, or returns ErrLocked.
func Lock(path string) (unlock func(), err error) {
	f, err := util.CreateLockFile(path)
	if errors.Is(err, util.ErrUnableToLockNow) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
