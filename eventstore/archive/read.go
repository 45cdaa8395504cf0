package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/carebus/carebus/eventstore/driver"
)

// Query chooses events of an archive. The zero value chooses all.
type Query struct {
	From, To time.Time                   // when they were recorded: From inclusive, To exclusive; zero means no bound
	Key      string                      // only events of this partition key
	Match    func(eventType string) bool // nil matches all
}

// All reads events in the order they were recorded. Only files that may hold some of them are read. Every file that is
// read to its end is proved by the hash chain; an event is handed out before that. The error names the file.
func (a *Archive) All(ctx context.Context, q Query) iter.Seq2[driver.Record, error] {
	return func(yield func(driver.Record, error) bool) {
		cs := make([]cursor, 0, len(a.m.Partitions))
		defer func() {
			for i := range cs {
				if cs[i].stop != nil {
					cs[i].stop()
				}
			}
		}()
		for p, part := range a.m.Partitions {
			if q.Key != "" && driver.PartitionOf(q.Key, len(a.m.Partitions)) != p {
				continue
			}
			c := cursor{}
			c.next, c.stop = iter.Pull2(a.chosen(ctx, p, part.Files, q))
			cs = append(cs, c)
			if !cs[len(cs)-1].advance() {
				yield(driver.Record{}, cs[len(cs)-1].err)
				return
			}
		}
		for {
			best := -1
			for i := range cs {
				if cs[i].ok && (best < 0 || cs[i].record.RecordedAt.Before(cs[best].record.RecordedAt)) {
					best = i
				}
			}
			if best < 0 || !yield(cs[best].record, nil) {
				return
			}
			if !cs[best].advance() {
				yield(driver.Record{}, cs[best].err)
				return
			}
		}
	}
}

// cursor is where a reader is in a partition.
type cursor struct {
	next   func() (driver.Record, error, bool)
	stop   func()
	record driver.Record
	err    error
	ok     bool
}

// advance returns false when the next record cannot be read.
func (c *cursor) advance() bool {
	c.record, c.err, c.ok = c.next()
	return c.err == nil
}

// chosen reads the events of some files of a partition that a query chooses.
func (a *Archive) chosen(ctx context.Context, p int, files []File, q Query) iter.Seq2[driver.Record, error] {
	return func(yield func(driver.Record, error) bool) {
		for _, f := range files {
			if !q.From.IsZero() && f.To.Before(q.From) || !q.To.IsZero() && !f.From.Before(q.To) {
				continue
			}
			for r, err := range a.file(ctx, p, f, nil) {
				if err != nil {
					yield(r, err)
					return
				}
				if !q.From.IsZero() && r.RecordedAt.Before(q.From) || !q.To.IsZero() && !r.RecordedAt.Before(q.To) || q.Key != "" && r.PartitionKey != q.Key || q.Match != nil && !q.Match(r.Type) {
					continue
				}
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// file reads one file, and proves what it has read: lines, offsets, times and the hash chain. sum, when not nil, is given
// every byte of the file.
func (a *Archive) file(ctx context.Context, p int, f File, sum hash.Hash) iter.Seq2[driver.Record, error] {
	return readFile(ctx, filepath.Join(a.dir, f.Name), p, len(a.m.Partitions), f, sum)
}

func readFile(ctx context.Context, path string, p, partitions int, f File, sum hash.Hash) iter.Seq2[driver.Record, error] {
	return func(yield func(driver.Record, error) bool) {
		fail := func(rule, detail string) { yield(driver.Record{}, damage(f.Name, rule, detail)) }
		file, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			fail("missing", "the file is not there")
			return
		}
		if err != nil {
			yield(driver.Record{}, fmt.Errorf("archive: %w", err))
			return
		}
		defer file.Close()
		var raw io.Reader = file
		if sum != nil {
			raw = io.TeeReader(file, sum)
		}
		z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxLine))
		if err != nil {
			yield(driver.Record{}, fmt.Errorf("archive: %w", err))
			return
		}
		defer z.Close()
		lines := bufio.NewReaderSize(z, 64<<10)
		next := func() ([]byte, bool) {
			text, err := readLine(lines)
			if err != nil {
				fail("content", "it cannot be decompressed, or ends early")
			}
			return text, err == nil
		}
		text, ok := next()
		if !ok {
			return
		}
		var h header
		want := header{Carebus: "archive", Format: format, Partitions: partitions, Partition: p, First: f.First, Before: f.Before}
		if json.Unmarshal(text, &h) != nil || h != want {
			fail("header", "it does not begin as the manifest says")
			return
		}
		chain, err := parseHash(f.Before)
		if err != nil {
			fail("header", "no hash")
			return
		}
		var last time.Time
		for offset := f.First; offset <= f.Last; offset++ {
			if err := ctx.Err(); err != nil {
				yield(driver.Record{}, context.Cause(ctx))
				return
			}
			text, ok := next()
			if !ok {
				return
			}
			r, err := parseLine(text, p)
			if err != nil {
				fail("content", fmt.Sprintf("offset %d: %v", offset, err))
				return
			}
			if r.Offset != offset || !r.RecordedAt.After(last) || offset == f.First && !r.RecordedAt.Equal(f.From) {
				fail("content", fmt.Sprintf("offset %d is not what follows", offset))
				return
			}
			last = r.RecordedAt
			chain = driver.Chain(chain, driver.ContentDigest(&r.Event), p, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt)
			if !yield(r, nil) {
				return
			}
		}
		if text, ok = next(); !ok {
			return
		}
		var e end
		after := hex.EncodeToString(chain[:])
		if json.Unmarshal(text, &e) != nil || e != (end{f.Last, f.Last - f.First + 1, f.After}) || !last.Equal(f.To) {
			fail("end", "it does not end as the manifest says")
			return
		}
		if after != f.After {
			fail("hash-chain", "an event is not what was stored")
			return
		}
		if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
			fail("content", "there is more behind its end")
			return
		}
		if _, err := io.Copy(io.Discard, raw); err != nil {
			yield(driver.Record{}, fmt.Errorf("archive: %w", err))
		}
	}
}

// maxLine is far more than a store accepts of one event: damage must not make a reader take all memory.
const maxLine = 512 << 20

func readLine(r *bufio.Reader) (text []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(text) == 0 && err == nil {
			return part, nil // valid until the next read
		}
		text = append(text, part...)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return text, err
		}
		if len(text) > maxLine {
			return nil, errors.New("a line without an end")
		}
	}
}

// Fault is one contradiction that Verify found.
type Fault struct {
	File   string `json:"file"`
	Detail string `json:"detail"`
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Files  int     `json:"files"`
	Events int64   `json:"events"`
	Faults []Fault `json:"faults"`
}

// Verify reads every file and proves it: its checksum, its lines, its offsets and times, and the hash chain from the
// partition's first event on. progress may be nil. An error means that the walk could not be finished; faults are in the
// report.
func (a *Archive) Verify(ctx context.Context, progress func(events, total int64)) (VerifyReport, error) {
	r := VerifyReport{Faults: []Fault{}}
	total := a.m.Events()
	for p, part := range a.m.Partitions {
		for _, f := range part.Files {
			r.Files++
			sum := sha256.New()
			var fault error
			for _, err := range a.file(ctx, p, f, sum) {
				if err != nil {
					fault = err
					break
				}
				r.Events++
				if progress != nil && r.Events%4096 == 0 {
					progress(r.Events, total)
				}
			}
			switch {
			case fault != nil && !errors.Is(fault, ErrDamaged):
				return r, fault
			case fault != nil:
				r.Faults = append(r.Faults, Fault{f.Name, fault.Error()})
			case hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
				// Every event of it is whole.
				r.Faults = append(r.Faults, Fault{f.Name, damage(f.Name, "checksum", "its bytes are not those that were written").Error()})
			}
		}
	}
	if progress != nil {
		progress(r.Events, total)
	}
	return r, nil
}
