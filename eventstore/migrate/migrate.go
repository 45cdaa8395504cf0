package migrate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// Errors that this package reports, tested with errors.Is.
var (
	// ErrDiffers: the target's events are not the beginning of the source's. It is a copy of another store.
	ErrDiffers = errors.New("the target is an unfinished copy of another store")
	// ErrBusy: something is under way in the source that cannot be carried over to another number of partitions. The text
	// says what, and how to bring it to an end.
	ErrBusy = errors.New("the store cannot be given other partitions now")
)

// Options of a copy. The zero value works.
type Options struct {
	// Partitions of the target. Default: as many as the source has.
	Partitions int
	// Progress is told how far a stage is. Default: nobody is.
	Progress Progress
}

// Report is what was moved.
type Report struct {
	Events     int64   `json:"events"`
	Resumed    int64   `json:"resumed"`    // events that an earlier run had copied
	Partitions []Part  `json:"partitions"` // of the target
	Tables     []Table `json:"tables"`
	Keys       int64   `json:"keys,omitempty"` // whose events were compared one by one, when the number of partitions is another
}

// Part is a partition of the target, and, when their number is the same, of both stores.
type Part struct {
	Events int64  `json:"events"`
	Hash   string `json:"hash"` // of the last event, and through the chain of all before it
}

// Table is a table beside the log.
type Table struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// Progress says how far a stage is: "verify source", "events", "tables", "verify target", "compare keys".
type Progress func(stage string, done, total int64)

const (
	// What is copied in one transaction.
	batch      = 4096
	batchBytes = 8 << 20
	// mergeBytes bounds what is read ahead of all partitions together.
	mergeBytes = 32 << 20
	// lockedFor is how long the lock of the source may be held.
	lockedFor = 7 * 24 * time.Hour
)

// Run copies the store from to the store to, both named "sqlite:PATH" or "postgres://…"; from a server only to a server.
// Nothing may write to the source meanwhile: its services must have ended, and one that runs all the same waits, and fails.
func Run(ctx context.Context, from, to string, o *Options) (r Report, err error) {
	if o == nil {
		o = &Options{}
	}
	c := &copier{progress: o.Progress, report: &r, sqlite: strings.HasPrefix(from, "sqlite:")}
	if c.progress == nil {
		c.progress = func(string, int64, int64) {}
	}
	if !c.sqlite && strings.HasPrefix(to, "sqlite:") {
		return r, errors.New("migrate: from a server only to a server; the other way is an archive of the events, see package archive")
	}
	if o.Partitions < 0 || o.Partitions > 4096 {
		return r, fmt.Errorf("migrate: %d partitions; use 1 to 4096", o.Partitions)
	}
	if c.from, err = openSource(ctx, from); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.from.Close()) }()
	partitions := o.Partitions
	if partitions == 0 {
		partitions = c.from.Info().Partitions
	}
	// A transaction of the source, in which nothing is written, keeps its writers out.
	u := &driver.Unit{Ctx: ctx, Run: func(tx driver.Tx) (err error) {
		if partitions != c.from.Info().Partitions {
			if c.layout, err = planLayout(ctx, c.from, tx, partitions); err != nil {
				return err
			}
		}
		if c.to, err = OpenTarget(ctx, to, partitions); err != nil {
			return err
		}
		return c.run(ctx, tx)
	}}
	_, err = c.from.Commit(ctx, []*driver.Unit{u})
	err = errors.Join(err, u.Err)
	if c.to == nil {
		return r, err
	}
	if err != nil {
		return r, errors.Join(err, c.to.Close())
	}
	return r, c.to.Finish(ctx)
}

type copier struct {
	from     Engine
	to       *Target
	sqlite   bool    // from is a file
	layout   *layout // nil for the same partitions
	progress Progress
	report   *Report
	heads    []int64 // of the source
}

func (c *copier) run(ctx context.Context, tx driver.Tx) (err error) {
	if c.heads, err = c.from.Heads(ctx); err != nil {
		return err
	}
	c.report.Events = sum(c.heads)
	if err := c.verify(ctx, c.from, "verify source"); err != nil {
		return err
	}
	copyEvents, compare := c.events, c.compare
	if c.layout != nil {
		copyEvents, compare = c.layOut, c.compareKeys
	}
	if err := copyEvents(ctx); err != nil {
		return err
	}
	if err := c.tables(ctx, tx); err != nil {
		return err
	}
	if err := c.verify(ctx, c.to, "verify target"); err != nil {
		return err
	}
	return compare(ctx)
}

func sum(heads []int64) (n int64) {
	for _, h := range heads {
		n += h
	}
	return n
}

// verify walks a store; a fault ends the copy.
func (c *copier) verify(ctx context.Context, d driver.Driver, stage string) error {
	return Whole(ctx, d, func(n int64) { c.progress(stage, n, c.report.Events) })
}

// Whole verifies a store. A fault is a driver.ErrCorrupt that names the first one of a partition. progress is told how
// many events have been seen.
func Whole(ctx context.Context, d driver.Driver, progress func(events int64)) error {
	heads, err := d.Heads(ctx)
	if err != nil {
		return err
	}
	before := int64(0)
	for p, head := range heads {
		var first *driver.Fault
		err := d.Verify(ctx, p, func(n int64) { progress(before + n) }, func(f driver.Fault) {
			if first == nil {
				first = &f
			}
		})
		if err != nil {
			return err
		}
		if first != nil {
			return fmt.Errorf("%w: %s: %s at partition %d, offset %d: %s; see carebus verify", driver.ErrCorrupt, d.Info().Location, first.Rule, first.Partition, first.Offset, first.Detail)
		}
		before += head
	}
	return nil
}

// events copies what the target does not have yet.
func (c *copier) events(ctx context.Context) error {
	have, err := c.to.Heads(ctx)
	if err != nil {
		return err
	}
	for p, n := range have {
		if n > c.heads[p] {
			return fmt.Errorf("%w: partition %d has %d events, the source %d; choose another target", ErrDiffers, p, n, c.heads[p])
		}
		if err := c.same(ctx, p, n-1); err != nil {
			return err
		}
	}
	done := sum(have)
	c.report.Resumed = done
	for p, next := range have {
		for next < c.heads[p] {
			b, err := c.from.Partition(ctx, driver.PartitionQuery{Partition: p, From: next, To: c.heads[p], Limit: batch, MaxBytes: batchBytes})
			if err != nil {
				return err
			}
			if len(b.Records) == 0 {
				return fmt.Errorf("%w: %s: partition %d has nothing at offset %d", driver.ErrCorrupt, c.from.Info().Location, p, next)
			}
			if err := c.to.Import(ctx, b.Records); err != nil {
				return err
			}
			next = b.Next
			done += int64(len(b.Records))
			c.progress("events", done, c.report.Events)
		}
	}
	return nil
}

// same fails unless both stores have the same events up to an offset.
func (c *copier) same(ctx context.Context, partition int, offset int64) error {
	hash, err := c.from.Hash(ctx, partition, offset)
	if err != nil {
		return err
	}
	return c.expect(ctx, partition, offset, hash)
}

// expect fails unless the target has this hash at an offset.
func (c *copier) expect(ctx context.Context, partition int, offset int64, want [32]byte) error {
	hash, err := c.to.Hash(ctx, partition, offset)
	if err != nil {
		return err
	}
	if hash != want {
		return fmt.Errorf("%w: partition %d differs at or before offset %d; choose another target", ErrDiffers, partition, offset)
	}
	return nil
}

// compare holds the ends of both stores against each other.
func (c *copier) compare(ctx context.Context) error {
	for p, head := range c.heads {
		if err := c.same(ctx, p, head-1); err != nil {
			return err
		}
	}
	return c.ends(ctx, c.heads)
}

// ends reports the partitions of the target, which must have these heads.
func (c *copier) ends(ctx context.Context, want []int64) error {
	have, err := c.to.Heads(ctx)
	if err != nil {
		return err
	}
	for p, head := range have {
		if head != want[p] {
			return fmt.Errorf("%w: partition %d of the target has %d events; it should have %d", driver.ErrCorrupt, p, head, want[p])
		}
		hash, err := c.to.Hash(ctx, p, head-1)
		if err != nil {
			return err
		}
		c.report.Partitions = append(c.report.Partitions, Part{Events: head, Hash: hex.EncodeToString(hash[:])})
	}
	return nil
}
