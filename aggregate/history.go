package aggregate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/carebus/carebus/eventstore"
)

// Step is one event in the history of an entity, and what it made of the state.
type Step[S any] struct {
	Record  eventstore.Record
	State   S        // after the event
	Changes []Change // by pointer; empty for an event that changed nothing
}

// Change is one member of the encoded state that an event has set, changed or removed. Its values may be protected.
type Change struct {
	Pointer string          `json:"pointer"`        // JSON pointer (RFC 6901) into the state
	From    json.RawMessage `json:"from,omitempty"` // nil: was not there
	To      json.RawMessage `json:"to,omitempty"`   // nil: is not there any more
}

// History walks the stream of an entity from its beginning. An entity without events is eventstore.ErrNotFound.
func (d *Definition[S]) History(ctx context.Context, l Log, id string) iter.Seq2[Step[S], error] {
	return func(yield func(Step[S], error) bool) {
		var s Loaded[S]
		before, err := tree(s.State)
		for err == nil {
			var records []eventstore.Record
			if records, err = l.Store().Stream(ctx, eventstore.StreamQuery{Stream: d.Stream(id), From: s.Version + 1, Limit: batch}); err != nil {
				break
			}
			for _, r := range records {
				if err = d.apply(l, &s, r); err != nil {
					break
				}
				var after any
				if after, err = tree(s.State); err != nil {
					break
				}
				step := Step[S]{Record: r, Changes: diff(before, after)}
				if step.State, err = untree[S](after); err != nil { // a copy: the fold goes on with its own
					break
				}
				if !yield(step, nil) {
					return
				}
				before = after
			}
			if err == nil && len(records) < batch {
				return
			}
		}
		if errors.Is(err, eventstore.ErrNotFound) && s.Version > 0 {
			return
		}
		yield(Step[S]{}, err)
	}
}

// Blame says for each member of the present state which event has set it, by JSON pointer of the innermost members.
func (d *Definition[S]) Blame(ctx context.Context, l Log, id string) (map[string]eventstore.Record, error) {
	out := map[string]eventstore.Record{}
	for step, err := range d.History(ctx, l, id) {
		if err != nil {
			return nil, err
		}
		for _, c := range step.Changes {
			maps.DeleteFunc(out, func(p string, _ eventstore.Record) bool { return p == c.Pointer || strings.HasPrefix(p, c.Pointer+"/") })
			if c.To != nil {
				leaves(c.Pointer, c.To, func(pointer string) { out[pointer] = step.Record })
			}
		}
	}
	return out, nil
}

// tree is a state as JSON values; numbers keep their digits.
func tree(s any) (any, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("aggregate: the state cannot be encoded: %w", err)
	}
	return parse(text)
}

func parse(text []byte) (v any, err error) {
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	err = in.Decode(&v)
	return v, err
}

func untree[S any](v any) (s S, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// diff lists what is different between two encoded states, sorted by pointer. Members of objects are compared by name,
// elements of lists by place.
func diff(before, after any) []Change {
	out := []Change{}
	var walk func(pointer string, a, b any, hasA, hasB bool)
	walk = func(pointer string, a, b any, hasA, hasB bool) {
		ao, aIsObject := a.(map[string]any)
		bo, bIsObject := b.(map[string]any)
		al, aIsList := a.([]any)
		bl, bIsList := b.([]any)
		switch {
		case hasA && hasB && aIsObject && bIsObject:
			for name := range ao {
				v, ok := bo[name]
				walk(pointer+"/"+escape(name), ao[name], v, true, ok)
			}
			for name := range bo {
				if _, ok := ao[name]; !ok {
					walk(pointer+"/"+escape(name), nil, bo[name], false, true)
				}
			}
		case hasA && hasB && aIsList && bIsList:
			for i := range max(len(al), len(bl)) {
				var x, y any
				if i < len(al) {
					x = al[i]
				}
				if i < len(bl) {
					y = bl[i]
				}
				walk(pointer+"/"+strconv.Itoa(i), x, y, i < len(al), i < len(bl))
			}
		default:
			c := Change{Pointer: pointer}
			if hasA {
				c.From = text(a)
			}
			if hasB {
				c.To = text(b)
			}
			if !bytes.Equal(c.From, c.To) || hasA != hasB {
				out = append(out, c)
			}
		}
	}
	walk("", before, after, true, true)
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Pointer, b.Pointer) })
	return out
}

func text(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil { // v came out of JSON
		return json.RawMessage("null")
	}
	return b
}

// leaves calls found with the pointers of the innermost members of a value.
func leaves(pointer string, value json.RawMessage, found func(string)) {
	v, err := parse(value)
	if err != nil {
		found(pointer)
		return
	}
	var walk func(string, any)
	walk = func(p string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, m := range v {
				walk(p+"/"+escape(name), m)
			}
		case []any:
			for i, m := range v {
				walk(p+"/"+strconv.Itoa(i), m)
			}
		default:
			found(p)
		}
	}
	walk(pointer, v)
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1")

func escape(name string) string { return escaper.Replace(name) }
