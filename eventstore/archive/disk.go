package archive

import (
	"errors"
	"io"
	"os"
	"runtime"
)

// disk is what a run does to files, so that tests can let it fail, and crash, at every step.
type disk interface {
	Create(path string) (output, error)
	Rename(from, to string) error
	Remove(path string) error
	SyncFolder(dir string) error
}

type output interface {
	io.WriteCloser
	Sync() error
}

type osDisk struct{}

// Create makes an empty file that only its owner reads.
func (osDisk) Create(path string) (output, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Rename replaces to.
func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

// Remove removes a file.
func (osDisk) Remove(path string) error { return os.Remove(path) }

// SyncFolder makes the names in a folder durable.
func (osDisk) SyncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such thing
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
