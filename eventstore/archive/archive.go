package archive

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// Errors that this package reports, tested with errors.Is.
var (
	// ErrDiffers: the archive is of another store, or of this one before it was changed.
	ErrDiffers = errors.New("the archive is not one of this store")
	// ErrDamaged: a file is not what was written. The text names it; a good copy of it can be put in its place.
	ErrDamaged = errors.New("the archive is damaged")
	// ErrLocked: another process is writing to the archive.
	ErrLocked = errors.New("another process is writing to the archive")
	// ErrUnfinished: the run that wrote last was broken off. Write goes on.
	ErrUnfinished = errors.New("the archive is unfinished; run carebus archive again")
	// ErrOpen: the period is not closed yet: events of it may still be recorded.
	ErrOpen = errors.New("the period is not closed yet")
)

const (
	format       = 1
	manifestName = "manifest.json"
	lockName     = "lock"
)

// Manifest is what an archive holds.
type Manifest struct {
	Format int `json:"format"`
	// Before is the end of the archived period: every event recorded before it is here. Zero until the first run is through.
	Before time.Time `json:"before,omitzero"`
	// Unfinished is the end of the period that a run is archiving, or was when it was broken off; zero after its end.
	Unfinished time.Time `json:"unfinished,omitzero"`
	// Partitions are those of the store.
	Partitions []Partition `json:"partitions"`
}

// Partition is the archived beginning of a partition.
type Partition struct {
	Events int64  `json:"events"`
	Hash   string `json:"hash"` // of the last event, and through the chain of all before it; zeros when there is none
	Files  []File `json:"files"`
}

// File is a run of offsets of one partition.
type File struct {
	Name   string    `json:"name"`
	First  int64     `json:"first"` // offset
	Last   int64     `json:"last"`  // offset
	From   time.Time `json:"from"`  // when the first event was recorded
	To     time.Time `json:"to"`    // and the last
	Before string    `json:"hashBefore"`
	After  string    `json:"hashAfter"`
	Bytes  int64     `json:"bytes"`
	SHA256 string    `json:"sha256"`
}

// Archive is an archive that is being read. It stays as it was when it was opened, while it grows.
type Archive struct {
	dir string
	m   Manifest
}

// Open opens the archive in a folder.
func Open(dir string) (*Archive, error) {
	m, err := readManifest(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("archive: %w: no archive in %s", driver.ErrNotFound, dir)
	}
	if err != nil {
		return nil, err
	}
	return &Archive{dir: dir, m: m}, nil
}

// Manifest is what the archive holds. It must not be changed.
func (a *Archive) Manifest() Manifest { return a.m }

// Events is how many events the archive holds.
func (m Manifest) Events() (n int64) {
	for _, p := range m.Partitions {
		n += p.Events
	}
	return n
}

var fileForm = regexp.MustCompile(`^p\d{4}-\d{13}-\d{13}\.ndjson\.zst$`)

func readManifest(dir string) (m Manifest, err error) {
	text, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return m, err
	}
	damaged := func(detail string) error { return damage(manifestName, "manifest", detail) }
	if err := json.Unmarshal(text, &m); err != nil {
		return m, damaged("it is not the JSON that was written")
	}
	if m.Format != format {
		return m, fmt.Errorf("archive: %w: %s has format %d, this program knows %d; use a newer carebus", driver.ErrFormat, filepath.Join(dir, manifestName), m.Format, format)
	}
	if len(m.Partitions) == 0 || len(m.Partitions) > 4096 {
		return m, damaged(fmt.Sprintf("it has %d partitions", len(m.Partitions)))
	}
	for p, part := range m.Partitions {
		next, hash := int64(0), zeroHash
		for _, f := range part.Files {
			if !fileForm.MatchString(f.Name) {
				return m, damaged(fmt.Sprintf("partition %d has a file whose name is none of an archive", p))
			}
			if f.First != next || f.Last < f.First || f.Before != hash {
				return m, damaged(fmt.Sprintf("the files of partition %d do not follow each other before %s", p, f.Name))
			}
			if _, err := parseHash(f.After); err != nil {
				return m, damaged(fmt.Sprintf("%s has no hash", f.Name))
			}
			next, hash = f.Last+1, f.After
		}
		if part.Events != next || part.Hash != hash {
			return m, damaged(fmt.Sprintf("partition %d ends otherwise than its files", p))
		}
	}
	return m, nil
}

var zeroHash = hex.EncodeToString(make([]byte, 32))

func parseHash(text string) (hash [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(hash) {
		return hash, errors.New("not a hash")
	}
	return [32]byte(b), nil
}

func damage(file, rule, detail string) error {
	return fmt.Errorf("archive: %w: %s (%s): %s", ErrDamaged, file, rule, detail)
}

// Join holds the archive against the store: where the archive ends, the store must have the same hash, which stands for
// all events before. ErrDiffers names the first partition where it does not.
func (a *Archive) Join(ctx context.Context, store Engine) error { return join(ctx, a.m, store) }

func join(ctx context.Context, m Manifest, store Engine) error {
	if n := store.Info().Partitions; n != len(m.Partitions) {
		return fmt.Errorf("archive: %w: the store has %d partitions, the archive %d", ErrDiffers, n, len(m.Partitions))
	}
	for p, part := range m.Partitions {
		hash, err := store.Hash(ctx, p, part.Events-1)
		if errors.Is(err, driver.ErrNotFound) {
			return fmt.Errorf("archive: %w: partition %d has %d events in the archive, and fewer in the store", ErrDiffers, p, part.Events)
		}
		if err != nil {
			return err
		}
		if hex.EncodeToString(hash[:]) != part.Hash {
			return fmt.Errorf("archive: %w: partition %d differs at or before offset %d", ErrDiffers, p, part.Events-1)
		}
	}
	return nil
}
