package migrate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// ErrDiffers: the target's events are not the beginning of the source's. It is a copy of another store.
var ErrDiffers = errors.New("the target is an unfinished copy of another store")

// Report is what was moved.
type Report struct {
	Events     int64   `json:"events"`
	Resumed    int64   `json:"resumed"` // events that an earlier run had copied
	Partitions []Part  `json:"partitions"`
	Tables     []Table `json:"tables"`
}

// Part is a partition of both stores.
type Part struct {
	Events int64  `json:"events"`
	Hash   string `json:"hash"` // of the last event, and through the chain of all before it
}

// Table is a table beside the log.
type Table struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// Progress says how far a stage is: "verify source", "events", "tables", "verify target".
type Progress func(stage string, done, total int64)

// batch bounds what is copied in one transaction.
const (
	batch      = 4096
	batchBytes = 8 << 20
)

// Run copies the store in the file at path to the server at address. Nothing may write to the file meanwhile: its services
// must have ended, and one that runs all the same waits, and fails.
func Run(ctx context.Context, path, address string, progress Progress) (r Report, err error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	if _, err := os.Stat(path); err != nil {
		return r, fmt.Errorf("migrate: %w: %w", driver.ErrNotFound, err) // opening would create it
	}
	from, err := sqlite.Open(ctx, path, nil)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := postgres.Open(ctx, address, &postgres.Options{Partitions: from.Info().Partitions, Copy: true})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	c := &copier{from: from, to: to, progress: progress, report: &r}
	// A transaction of the source, in which nothing is written, keeps its writers out.
	u := &driver.Unit{Ctx: ctx, Run: func(tx driver.Tx) error { return c.run(ctx, tx) }}
	_, err = from.Commit(ctx, []*driver.Unit{u})
	return r, errors.Join(err, u.Err)
}

type copier struct {
	from     *sqlite.DB
	to       *postgres.DB
	progress Progress
	report   *Report
	heads    []int64
}

func (c *copier) run(ctx context.Context, tx driver.Tx) (err error) {
	if c.heads, err = c.from.Heads(ctx); err != nil {
		return err
	}
	for _, h := range c.heads {
		c.report.Events += h
	}
	if err := c.to.BeginCopy(ctx); err != nil {
		return err
	}
	if err := c.verify(ctx, c.from, "verify source"); err != nil {
		return err
	}
	if err := c.events(ctx); err != nil {
		return err
	}
	if err := c.tables(ctx, tx); err != nil {
		return err
	}
	if err := c.verify(ctx, c.to, "verify target"); err != nil {
		return err
	}
	if err := c.compare(ctx); err != nil {
		return err
	}
	return c.to.EndCopy(ctx)
}

// verify walks a store; a fault ends the copy.
func (c *copier) verify(ctx context.Context, d driver.Driver, stage string) error {
	before := int64(0)
	for p, head := range c.heads {
		var first *driver.Fault
		err := d.Verify(ctx, p, func(n int64) { c.progress(stage, before+n, c.report.Events) }, func(f driver.Fault) {
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
	done := int64(0)
	for p, n := range have {
		done += n
		if n > c.heads[p] {
			return fmt.Errorf("%w: partition %d has %d events, the source %d; choose an empty database, or another schema by search_path", ErrDiffers, p, n, c.heads[p])
		}
		if err := c.same(ctx, p, n-1); err != nil {
			return err
		}
	}
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
	a, err := c.from.Hash(ctx, partition, offset)
	if err != nil {
		return err
	}
	b, err := c.to.Hash(ctx, partition, offset)
	if err != nil {
		return err
	}
	if a != b {
		return fmt.Errorf("%w: partition %d differs at or before offset %d; choose an empty database, or another schema by search_path", ErrDiffers, partition, offset)
	}
	return nil
}

// compare holds the ends of both stores against each other.
func (c *copier) compare(ctx context.Context) error {
	have, err := c.to.Heads(ctx)
	if err != nil {
		return err
	}
	for p, head := range c.heads {
		if have[p] != head {
			return fmt.Errorf("%w: partition %d has %d events, the source %d", driver.ErrCorrupt, p, have[p], head)
		}
		if err := c.same(ctx, p, head-1); err != nil {
			return err
		}
		hash, err := c.to.Hash(ctx, p, head-1)
		if err != nil {
			return err
		}
		c.report.Partitions = append(c.report.Partitions, Part{Events: head, Hash: hex.EncodeToString(hash[:])})
	}
	return nil
}
