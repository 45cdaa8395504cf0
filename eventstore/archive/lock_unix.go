//go:build unix && !aix && !solaris

package archive

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock keeps other processes from writing. The system frees it when the process dies.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("archive: %w", err), f.Close())
	}
	return f.Close, nil
}
