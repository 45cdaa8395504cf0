package carebus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

const (
	typeRegistered = "platform.schema.registered"
	typeDeprecated = "platform.schema.deprecated"
)

// loadSchemas fills the registry: the catalog that this program brings, then what the store's history says, and writes
// into the history what it does not have yet.
func (p *Platform) loadSchemas(ctx context.Context) error {
	// The history comes first: a version that is registered is never changed by a newer program.
	if err := p.Refresh(ctx); err != nil {
		return err
	}
	var missing []schemaEvent
	for _, e := range catalog.Entries() {
		proposal, err := p.registry.Propose(schema.Document{Type: e.Type, Version: e.Version, Schema: e.Schema})
		switch {
		case errors.Is(err, schema.ErrVersionExists):
			p.log.Warn("the store has another schema than this program's catalog; the store's is used", "type", e.Type, "version", e.Version)
			continue
		case err != nil:
			return fmt.Errorf("carebus: catalog: %w", err)
		case proposal.Known:
			continue
		}
		missing = append(missing, schemaEvent{e.Type, proposal.Event})
		if err := p.registry.Apply(proposal.Event); err != nil {
			return fmt.Errorf("carebus: catalog: %w", err)
		}
	}
	for _, e := range catalog.Entries() { // now that the types that replace others are known
		doc, err := p.registry.Get(e.Type, e.Version)
		if !e.Deprecated || err != nil || doc.Deprecated {
			continue
		}
		gone, err := p.registry.ProposeDeprecation(e.Type, e.Version, "replaced in the catalog", e.ReplacedBy)
		if err != nil {
			return fmt.Errorf("carebus: catalog: %w", err)
		}
		missing = append(missing, schemaEvent{e.Type, gone})
		if err := p.registry.Apply(gone); err != nil {
			return fmt.Errorf("carebus: catalog: %w", err)
		}
	}
	for _, u := range catalog.Upcasters() {
		if err := p.registry.AddUpcaster(u.Type, u.From, u.To, u.Func); err != nil {
			return fmt.Errorf("carebus: catalog: %w", err)
		}
	}
	if p.readOnly || len(missing) == 0 {
		return nil
	}
	err := p.record(ctx, missing...)
	if !errors.Is(err, eventstore.ErrDifferentContent) {
		return err
	}
	// Another process is doing the same at this moment: ids follow from the content, so its event stands for ours.
	for _, m := range missing {
		if err := p.record(ctx, m); err != nil && !errors.Is(err, eventstore.ErrDifferentContent) {
			return err
		}
	}
	return nil
}

// schemaEvent is an event of the history of a type's schemas.
type schemaEvent struct {
	eventType string
	event     event.Event
}

func (p *Platform) record(ctx context.Context, events ...schemaEvent) error {
	return p.store.Update(ctx, func(tx *eventstore.Tx) error {
		for _, s := range events {
			if _, err := tx.Append(ctx, schema.StreamOf(s.eventType), eventstore.AnyVersion, s.event); err != nil {
				return fmt.Errorf("carebus: registering %s: %w", s.eventType, err)
			}
		}
		return nil
	})
}

// Refresh brings the registry up to date with registrations that other processes have made. Publishing does so by
// itself when it meets a type or version that it does not know.
func (p *Platform) Refresh(ctx context.Context) error {
	p.refreshMu.Lock()
	defer p.refreshMu.Unlock()
	tick := p.store.Tick()
	if p.fresh && tick == p.tick {
		return nil
	}
	// Clocks of processes differ a little, so a little of what was seen is read again.
	from := p.seen
	if !from.IsZero() {
		from = from.Add(-time.Minute)
	}
	for _, eventType := range []string{typeRegistered, typeDeprecated} {
		q := eventstore.TypeQuery{Type: eventType, From: from, Limit: 200}
		for {
			records, err := p.store.Type(ctx, q)
			if err != nil {
				return err
			}
			for _, r := range records {
				switch err := p.registry.Apply(r.Event); {
				case errors.Is(err, schema.ErrVersionExists):
					// Two programs with different catalogs met in a new store. The first registration counts, everywhere.
					p.log.Warn("a second, different schema under one version is ignored", "type", r.PartitionKey, "event", r.ID)
				case err != nil:
					return fmt.Errorf("carebus: registry, event %s: %w", r.ID, err)
				}
				if t := time.UnixMilli(r.Timestamp); t.After(p.seen) {
					p.seen = t
				}
			}
			if len(records) < q.Limit {
				break
			}
			last := records[len(records)-1]
			q.After = eventstore.Cursor{Timestamp: last.Timestamp, Partition: last.Partition, Offset: last.Offset, Valid: true}
		}
	}
	p.tick, p.fresh = tick, true
	return nil
}

// validate checks an event's payload against its schema; an unknown schema may have come from another process meanwhile.
func (p *Platform) validate(e event.Event) error {
	err := p.registry.Validate(e)
	if err == nil {
		return nil
	}
	if _, unknown := p.registry.Get(e.Type, e.Version); unknown == nil {
		return err
	}
	if rerr := p.Refresh(context.Background()); rerr != nil {
		return rerr
	}
	return p.registry.Validate(e)
}

// Registry holds the schemas: those of the catalog and those registered in the store.
func (p *Platform) Registry() *schema.Registry { return p.registry }

// RegisterSchema admits a new version of an event type's schema and records it in the store's history. The errors are
// schema's: *schema.IncompatibleError names every change that breaks the rules, *schema.VersionError a version that
// cannot be taken. Registering the same document again changes nothing and is told by Proposal.Known.
func (p *Platform) RegisterSchema(ctx context.Context, doc schema.Document) (schema.Proposal, error) {
	var proposal schema.Proposal
	err := p.changeSchema(ctx, doc.Type, func() (e event.Event, err error) {
		proposal, err = p.registry.Propose(doc)
		if err != nil || proposal.Known {
			return event.Event{}, err
		}
		return proposal.Event, nil
	})
	return proposal, err
}

// DeprecateSchema marks a version of a type, or with an empty version the whole type, as not to be used any more, for
// the reason given; replacedBy names the type to use instead, if any. Events of it are still accepted.
func (p *Platform) DeprecateSchema(ctx context.Context, eventType, version, reason, replacedBy string) error {
	return p.changeSchema(ctx, eventType, func() (event.Event, error) {
		return p.registry.ProposeDeprecation(eventType, version, reason, replacedBy)
	})
}

// changeSchema appends what propose returns at the version of the type's history that it was judged by; when another
// process was first, the judgement is made again.
func (p *Platform) changeSchema(ctx context.Context, eventType string, propose func() (event.Event, error)) error {
	if p.readOnly {
		return ErrReadOnly
	}
	for {
		stream := schema.StreamOf(eventType)
		seen, err := p.store.StreamVersion(ctx, stream)
		if err != nil {
			return err
		}
		p.refreshMu.Lock()
		p.fresh = false
		p.refreshMu.Unlock()
		if err := p.Refresh(ctx); err != nil {
			return err
		}
		e, err := propose()
		if err != nil || e.Type == "" {
			return err
		}
		_, err = p.store.Append(ctx, stream, seen, e)
		switch {
		case errors.Is(err, eventstore.ErrConflict):
			continue
		case errors.Is(err, eventstore.ErrDifferentContent): // the same change, said at another time: its id follows from what it says
			if e.Type == typeDeprecated {
				return p.Refresh(ctx)
			}
			continue // and finds the version known
		}
		if err != nil {
			return err
		}
		return p.registry.Apply(e)
	}
}

// Upcast returns an event as it would be in another version of its type, by the upcasters of the catalog and of the
// registry. Versions of one major are read as they are.
func (p *Platform) Upcast(e event.Event, version string) (event.Event, error) {
	text, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(text)
	if err != nil {
		return e, fmt.Errorf("carebus: version %q of %s: not a semantic version", version, e.Type)
	}
	return p.registry.Upcast(e, major)
}
