package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// Status is what is known of a projection, from any process.
type Status struct {
	Name       string                `json:"projection"`
	State      string                `json:"state"` // of the group that keeps the live tables: running, paused, stopped, or new when it has never run
	Version    int                   `json:"version"`
	Generation int64                 `json:"generation"`
	Since      time.Time             `json:"since"` // when the generation took over
	Tables     []string              `json:"tables"`
	Lag        int64                 `json:"lag"` // log entries not yet looked at
	ParkedKeys int                   `json:"parkedKeys"`
	Partitions []bus.PartitionStatus `json:"partitions"` // Next and Head only
	Build      *BuildStatus          `json:"build,omitempty"`
}

// BuildStatus is a generation being built, which is to take over.
type BuildStatus struct {
	Progress
	Reason  string    `json:"reason"`
	Actor   string    `json:"actor"`
	Started time.Time `json:"started"`
	Active  bool      `json:"active"` // a process gives signs of life; otherwise the build waits for one
}

// List returns every projection of the store, by name.
func List(ctx context.Context, s *eventstore.Store) ([]Status, error) { return statuses(ctx, s, "") }

// Get returns one projection, or ErrNotFound.
func Get(ctx context.Context, s *eventstore.Store, name string) (Status, error) {
	all, err := statuses(ctx, s, name)
	if err != nil {
		return Status{}, err
	}
	if len(all) == 0 || name == "" {
		return Status{}, fmt.Errorf("projection %q: %w; it exists once it has been registered", name, ErrNotFound)
	}
	return all[0], nil
}

func statuses(ctx context.Context, s *eventstore.Store, name string) ([]Status, error) {
	out := []Status{}
	switch err := s.Migrate(ctx, "projection", schemaSteps...); {
	case errors.Is(err, eventstore.ErrReadOnly):
		return out, nil // no projection was ever registered
	case err != nil:
		return nil, err
	}
	var heads []int64
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := load(ctx, q, name)
		if err != nil {
			return err
		}
		for _, r := range rows {
			st := Status{Name: r.name, Version: r.version, Generation: r.live, Since: r.liveSince, Tables: r.tables, Partitions: []bus.PartitionStatus{}}
			at, err := bus.ReadPositions(ctx, q, r.name, s.Partitions())
			if err != nil {
				return err
			}
			if st.State = at.State; st.State == "" {
				st.State = "new"
			}
			st.ParkedKeys = len(at.Parked)
			var total int64
			for p, next := range at.Next {
				st.Partitions = append(st.Partitions, bus.PartitionStatus{Partition: p, Next: next})
				total += next
			}
			if r.build.gen > 0 {
				st.Build = &BuildStatus{
					Progress: Progress{Projection: r.name, Generation: r.build.gen, Version: r.build.version, Total: total, Events: r.build.events},
					Reason:   r.build.reason, Actor: r.build.actor, Started: r.build.began, Active: r.build.until.After(time.Now()),
				}
				var done sql.NullInt64
				if err := q.QueryRowContext(ctx, `SELECT SUM(next) FROM carebus_projection_builds WHERE name = $1`, r.name).Scan(&done); err != nil {
					return err
				}
				st.Build.Done = done.Int64
			}
			out = append(out, st)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// After the snapshot, so that a head is never below a checkpoint.
	if heads, err = s.Heads(ctx); err != nil {
		return nil, err
	}
	for i := range out {
		for p := range out[i].Partitions {
			ps := &out[i].Partitions[p]
			ps.Head = heads[p]
			out[i].Lag += ps.Head - ps.Next
		}
	}
	return out, nil
}
