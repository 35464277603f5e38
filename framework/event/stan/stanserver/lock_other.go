//go:build !unix

package stanserver

import (
	"errors"

	"github.com/nats-io/nats-streaming-server/util"
)

var errLocked = errors.New("locked")

// lock locks the file at path. The lock ends with the process.
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
