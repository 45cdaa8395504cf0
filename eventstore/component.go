package eventstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// Migrate brings a component's tables up to date. steps are scripts in the SQL that engines share; each is carried out
// once, in order, and the number of those done is kept under the component's name. Steps already released are never
// changed: add one. A store that has more steps than the caller was written by a newer version and is refused.
func (s *Store) Migrate(ctx context.Context, component string, steps ...string) error {
	if done, err := s.migrated(ctx, component); err == nil && done == len(steps) {
		return nil
	}
	return s.update(ctx, true, func(tx *Tx) error {
		if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS carebus_components (name TEXT PRIMARY KEY, version BIGINT NOT NULL)`); err != nil {
			return err
		}
		var done int
		err := tx.QueryRowContext(ctx, `SELECT version FROM carebus_components WHERE name = $1`, component).Scan(&done)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if done > len(steps) {
			return fmt.Errorf("eventstore: tables of %s are at version %d, this program knows %d; use the newer program", component, done, len(steps))
		}
		for i := done; i < len(steps); i++ {
			if _, err := tx.ExecContext(ctx, steps[i]); err != nil {
				return fmt.Errorf("eventstore: tables of %s, step %d: %w", component, i+1, err)
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO carebus_components (name, version) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET version = excluded.version`, component, len(steps))
		return err
	})
}

// migrated looks without writing, so that opening an up-to-date store writes nothing.
func (s *Store) migrated(ctx context.Context, component string) (done int, err error) {
	err = s.View(ctx, func(q Querier) error {
		return q.QueryRowContext(ctx, `SELECT version FROM carebus_components WHERE name = $1`, component).Scan(&done)
	})
	return done, err
}

// All reads the events of all partitions from the given offsets (one per partition) up to the present heads, in the
// order they were recorded. It holds one batch per partition in memory, whatever the size of the store. match chooses
// event types; nil chooses all.
func (s *Store) All(ctx context.Context, from []int64, match func(eventType string) bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		heads, err := s.Heads(ctx)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for r, err := range driver.Merged(ctx, s.d, from, heads, match, 1<<20) {
			if !yield(r, err) {
				return
			}
		}
	}
}

// OffsetsAt returns, per partition, the offset of the first event recorded at t or later: the from of All.
func (s *Store) OffsetsAt(ctx context.Context, t time.Time) ([]int64, error) {
	out := make([]int64, s.Partitions())
	for p := range out {
		off, err := s.OffsetAt(ctx, p, t)
		if err != nil {
			return nil, err
		}
		out[p] = off
	}
	return out, nil
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Partitions int     `json:"partitions"`
	Events     int64   `json:"events"`
	Faults     []Fault `json:"faults"`     // the first 1000
	FaultCount int64   `json:"faultCount"` // all
}

// Verify walks the whole store and proves it, or names what is wrong: offsets and versions without gaps, every record's
// hash following from the one before, indexes that agree with the log. progress may be nil. An error means that the
// walk could not be finished; faults are in the report.
func (s *Store) Verify(ctx context.Context, progress func(events, total int64)) (VerifyReport, error) {
	r := VerifyReport{Partitions: s.Partitions(), Faults: []Fault{}}
	heads, err := s.Heads(ctx)
	if err != nil {
		return r, err
	}
	var total int64
	for _, h := range heads {
		total += h
	}
	for p := range heads {
		before := r.Events
		err := s.d.Verify(ctx, p, func(n int64) {
			r.Events = before + n
			if progress != nil {
				progress(r.Events, total)
			}
		}, func(f Fault) {
			r.FaultCount++
			if len(r.Faults) < 1000 {
				r.Faults = append(r.Faults, f)
			}
		})
		if err != nil {
			return r, err
		}
	}
	return r, nil
}
