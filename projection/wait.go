package projection

import (
	"context"
	"fmt"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// ParkedError is Wait's answer when an event is one of a parked key, or waits behind it: it will not be applied before
// somebody, or something, mends what the key's first event failed of. See bus.Bus.DeadLetters.
type ParkedError struct {
	Projection string
	EventID    string // of the event waited for
	Partition  int
	Key        string
	Head       int64 // offset of the key's first event that is not applied
}

func (e *ParkedError) Error() string {
	return fmt.Sprintf("projection %s: event %s is not applied: its key is parked since offset %d of partition %d; see the dead letters of group %s",
		e.Projection, e.EventID, e.Head, e.Partition, e.Projection)
}

// BehindError is Wait's answer when its context ended first. It wraps the context's error.
type BehindError struct {
	Projection string
	EventID    string // of the first event that is not applied
	Behind     int64  // log entries of its partition that come first
	State      string // of the group: running, paused, stopped; empty when it has never run
	Err        error
}

func (e *BehindError) Error() string {
	state := e.State
	if state == "" {
		state = "has never run"
	}
	return fmt.Sprintf("projection %s: event %s is not applied yet, %d entries of its partition come first (group: %s): %v", e.Projection, e.EventID, e.Behind, state, e.Err)
}

// Unwrap returns the context's error.
func (e *BehindError) Unwrap() error { return e.Err }

// Wait returns when the projection's tables have the effects of the events that the receipts stand for: who publishes,
// waits and then reads, reads what it wrote. Give ctx a deadline. It returns at once for events that the projection does
// not want. Errors: *ParkedError at once, *BehindError when ctx ends first.
func Wait(ctx context.Context, p Platform, d *Definition, receipts ...eventstore.Receipt) error {
	s := p.Store()
	look := context.WithoutCancel(ctx) // a look is short, and the last one says how far behind
	var keys map[string]bus.ParkedAt   // by event id, asked for when anything is parked; zero for events not wanted
	for {
		tick := s.Tick()
		var at bus.Positions
		ending := context.Cause(ctx)
		err := s.View(look, func(q eventstore.Querier) (err error) {
			at, err = bus.ReadPositions(look, q, d.name, s.Partitions())
			return err
		})
		if err != nil {
			return err
		}
		behind := &BehindError{Projection: d.name, State: at.State, Err: ending}
		for _, r := range receipts {
			if len(at.Parked) > 0 {
				k, known := keys[r.EventID]
				if !known {
					if k, err = keyOf(look, s, d, r.EventID); err != nil {
						return err
					}
					if keys == nil {
						keys = map[string]bus.ParkedAt{}
					}
					keys[r.EventID] = k
				}
				if head, parked := at.Parked[k]; parked && r.Offset >= head {
					return &ParkedError{Projection: d.name, EventID: r.EventID, Partition: k.Partition, Key: k.Key, Head: head}
				}
			}
			if r.Partition < len(at.Next) && at.Next[r.Partition] <= r.Offset && behind.EventID == "" {
				behind.EventID, behind.Behind = r.EventID, r.Offset-at.Next[r.Partition]
			}
		}
		if behind.EventID == "" {
			return nil
		}
		if ending != nil {
			return behind
		}
		if _, err := s.Wait(ctx, tick); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func keyOf(ctx context.Context, s *eventstore.Store, d *Definition, eventID string) (bus.ParkedAt, error) {
	r, err := s.Get(ctx, eventID)
	if err != nil || !d.matches(r.Type) {
		return bus.ParkedAt{}, err
	}
	return bus.ParkedAt{Partition: r.Partition, Key: r.PartitionKey}, nil
}
