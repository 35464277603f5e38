//go:build !unix

package natsserver

import (
	"errors"

	"github.com/nats-io/nats-streaming-server/util"
)

// lock locks the file at path, which is made if missing, or returns errLocked.
func lock(path string) (unlock func(), err error) {
	f, err := util.CreateLockFile(path)
	if errors.Is(err, util.ErrUnableToLockNow) {
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
