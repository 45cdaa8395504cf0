package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/migrate"
)

// Engine is the engine of a store, as migrate.OpenEngine opens it.
type Engine = migrate.Engine

// Options of a run. The zero value works.
type Options struct {
	// FileBytes is the size at which a file ends, in bytes before compression. Default 256 MiB.
	FileBytes int64
	// Progress is told how many of the events to be archived are. Default: nobody is.
	Progress func(done, total int64)

	disk disk
}

// Report is what a run has done.
type Report struct {
	Before  time.Time `json:"before"`
	Events  int64     `json:"events"`  // that are in the archive now
	Added   int64     `json:"added"`   // by this run
	Files   int       `json:"files"`   // written by this run
	Bytes   int64     `json:"bytes"`   // of these files
	Payload int64     `json:"payload"` // bytes of these events' payloads
}

// margin is how long ago a period must have ended: a transaction that is under way may still record an event in it.
const margin = time.Minute

// Write archives every event recorded before a time, which must have passed a minute ago, in a folder that is created when
// it is not there. What the archive holds already stays: the run goes on behind it. The store must be the one that the
// archive is of (ErrDiffers). Nothing of the store is changed, and nobody has to wait.
func Write(ctx context.Context, store Engine, dir string, before time.Time, o *Options) (r Report, err error) {
	w := &writer{store: store, dir: dir}
	if o != nil {
		w.opts = *o
	}
	if w.opts.FileBytes <= 0 {
		w.opts.FileBytes = 256 << 20
	}
	if w.opts.disk == nil {
		w.opts.disk = osDisk{}
	}
	if w.opts.Progress == nil {
		w.opts.Progress = func(int64, int64) {}
	}
	before = before.UTC().Truncate(time.Microsecond)
	if time.Since(before) < margin {
		return r, fmt.Errorf("archive: %w: %s; give a time that has passed %v ago", ErrOpen, before.Format(time.RFC3339), margin)
	}
	defer func() {
		if errors.Is(err, syscall.ENOSPC) {
			err = fmt.Errorf("%w: make room and run it again, it goes on: %w", driver.ErrFull, err)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, fmt.Errorf("archive: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := w.begin(ctx); err != nil {
		return r, err
	}
	if err := w.run(ctx, before); err != nil {
		return w.report, err
	}
	w.report.Before, w.report.Events = w.m.Before, w.m.Events()
	return w.report, nil
}

type writer struct {
	store  Engine
	dir    string
	opts   Options
	m      Manifest
	report Report
}

// begin reads the manifest, holds it against the store, and clears away what a run that was broken off has left.
func (w *writer) begin(ctx context.Context) (err error) {
	w.m, err = readManifest(w.dir)
	if errors.Is(err, fs.ErrNotExist) {
		w.m, err = Manifest{Format: format, Partitions: make([]Partition, w.store.Info().Partitions)}, nil
		for p := range w.m.Partitions {
			w.m.Partitions[p].Hash, w.m.Partitions[p].Files = zeroHash, []File{}
		}
	}
	if err != nil {
		return err
	}
	if err := join(ctx, w.m, w.store); err != nil {
		return err
	}
	named := map[string]bool{}
	for _, part := range w.m.Partitions {
		for _, f := range part.Files {
			named[f.Name] = true
		}
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		ours := fileForm.MatchString(name) || strings.HasSuffix(name, temporary) && (fileForm.MatchString(strings.TrimSuffix(name, temporary)) || name == manifestName+temporary)
		if ours && !named[name] {
			if err := w.opts.disk.Remove(filepath.Join(w.dir, name)); err != nil {
				return fmt.Errorf("archive: %w", err)
			}
		}
	}
	return nil
}

func (w *writer) run(ctx context.Context, before time.Time) error {
	var to []int64
	var total, done int64
	for p, part := range w.m.Partitions {
		n, err := w.store.OffsetAt(ctx, p, before)
		if err != nil {
			return err
		}
		to = append(to, n)
		total += max(n-part.Events, 0)
	}
	if total == 0 && !before.After(w.m.Before) {
		return nil
	}
	if total > 0 {
		w.m.Unfinished = before // said before the first file
	}
	for p := range w.m.Partitions {
		part := &w.m.Partitions[p]
		for part.Events < to[p] {
			f, err := w.file(ctx, p, to[p], func(n int64) { w.opts.Progress(done+n, total) })
			if err != nil {
				return err
			}
			part.Files = append(part.Files, f)
			part.Events, part.Hash = f.Last+1, f.After
			if err := w.save(); err != nil {
				return err
			}
			done += f.Last - f.First + 1
			w.report.Added, w.report.Files, w.report.Bytes = done, w.report.Files+1, w.report.Bytes+f.Bytes
		}
	}
	w.m.Unfinished = time.Time{}
	if before.After(w.m.Before) {
		w.m.Before = before
	}
	return w.save()
}

// file writes one file: the next offsets of a partition, up to to or as many as a file takes.
func (w *writer) file(ctx context.Context, p int, to int64, progress func(n int64)) (f File, err error) {
	part := &w.m.Partitions[p]
	f = File{First: part.Events, Before: part.Hash}
	chain, err := parseHash(part.Hash)
	if err != nil {
		return f, damage(manifestName, "manifest", err.Error())
	}
	// The last offset is not known yet, and the name of a file that is not finished says nothing.
	path := filepath.Join(w.dir, fileName(p, f.First, f.First)+temporary)
	out, err := w.opts.disk.Create(path)
	if err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(out.Close())) }()
	sum := sha256.New()
	count := &counter{}
	buffer := bufio.NewWriterSize(io.MultiWriter(out, sum, count), 256<<10)
	z, err := zstd.NewWriter(buffer, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	defer z.Close()
	if err := writeJSON(z, header{Carebus: "archive", Format: format, Partitions: len(w.m.Partitions), Partition: p, First: f.First, Before: f.Before}); err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	next, size := f.First, int64(0)
	var text []byte
	for next < to && size < w.opts.FileBytes {
		b, err := w.store.Partition(ctx, driver.PartitionQuery{Partition: p, From: next, To: to, Limit: 1024})
		if err != nil {
			return f, err
		}
		if len(b.Records) == 0 {
			return f, fmt.Errorf("%w: %s: partition %d has nothing at offset %d", driver.ErrCorrupt, w.store.Info().Location, p, next)
		}
		for i := range b.Records {
			r := &b.Records[i]
			if r.Offset != next {
				return f, fmt.Errorf("%w: %s: partition %d has nothing at offset %d", driver.ErrCorrupt, w.store.Info().Location, p, next)
			}
			if text, err = appendLine(text[:0], r); err != nil {
				return f, fmt.Errorf("archive: event %s: %w", r.ID, err)
			}
			if _, err := z.Write(text); err != nil {
				return f, fmt.Errorf("archive: %w", err)
			}
			if next == f.First {
				f.From = r.RecordedAt
			}
			f.To = r.RecordedAt
			chain = driver.Chain(chain, driver.ContentDigest(&r.Event), p, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt)
			w.report.Payload += int64(len(r.Payload))
			size += int64(len(text))
			if next++; size >= w.opts.FileBytes {
				break
			}
		}
		progress(next - f.First)
	}
	f.Last, f.After = next-1, hex.EncodeToString(chain[:])
	if err := writeJSON(z, end{Last: f.Last, Events: next - f.First, After: f.After}); err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	if err := errors.Join(z.Close(), buffer.Flush(), out.Sync(), out.Close()); err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	f.Name, f.Bytes, f.SHA256 = fileName(p, f.First, f.Last), count.n, hex.EncodeToString(sum.Sum(nil))
	// What was written is what the store holds, and can be read.
	stored, err := w.store.Hash(ctx, p, f.Last)
	if err != nil {
		return f, err
	}
	if stored != chain {
		return f, fmt.Errorf("%w: %s: the hash chain of partition %d does not lead to offset %d; see carebus verify", driver.ErrCorrupt, w.store.Info().Location, p, f.Last)
	}
	for _, err := range readFile(ctx, path, p, len(w.m.Partitions), f, nil) {
		if err != nil {
			return f, fmt.Errorf("reading back what was written: %w", err)
		}
	}
	// Its name is durable before a manifest with it can be.
	if err := w.opts.disk.Rename(path, filepath.Join(w.dir, f.Name)); err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	if err := w.opts.disk.SyncFolder(w.dir); err != nil {
		return f, fmt.Errorf("archive: %w", err)
	}
	return f, nil
}

// save writes the manifest in the place of the old one.
func (w *writer) save() (err error) {
	path := filepath.Join(w.dir, manifestName)
	out, err := w.opts.disk.Create(path + temporary)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(out.Close())) }()
	text, err := json.MarshalIndent(w.m, "", "  ")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if _, err := out.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := w.opts.disk.Rename(path+temporary, path); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := w.opts.disk.SyncFolder(w.dir); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

const temporary = ".tmp"

func fileName(p int, first, last int64) string {
	return fmt.Sprintf("p%04d-%013d-%013d.ndjson.zst", p, first, last)
}

func writeJSON(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// ignoreClosed is for a second Close.
func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
