package driver

import (
	"bytes"
	"fmt"
)

// Known checks the ids of an append before anything of it is stored: the same id twice must have the same content, within
// the append and against what is stored (SameContent). stored returns the record that has the id of event i, nil for none. The receipts
// of events that are stored already are filled in and marked; twin is what Twins returns. When duplicates is the number
// of events the append was made before, word for word. Missing digests are made.
func Known(a *Append, stored func(i int) (*Record, error)) (receipts []Receipt, twin []int, duplicates int, err error) {
	if len(a.Digests) == 0 {
		a.Digests = make([][32]byte, len(a.Events))
		for i := range a.Events {
			a.Digests[i] = ContentDigest(&a.Events[i])
		}
	}
	if len(a.Events) > 1 {
		twin = Twins(a.Events)
	}
	receipts = make([]Receipt, len(a.Events))
	for i := range a.Events {
		if twin != nil && a.Digests[twin[i]] != a.Digests[i] && !SameContent(&a.Events[twin[i]], &a.Events[i]) {
			return nil, nil, 0, fmt.Errorf("event %s, twice in one append: %w; give a new fact a new id", a.Events[i].ID, ErrDifferentContent)
		}
		r, err := stored(i)
		if err != nil {
			return nil, nil, 0, err
		}
		if r == nil {
			continue
		}
		if !SameContent(&r.Event, &a.Events[i]) {
			return nil, nil, 0, fmt.Errorf("event %s: %w; give a new fact a new id", r.ID, ErrDifferentContent)
		}
		receipts[i] = r.Receipt()
		receipts[i].Duplicate = true
		duplicates++
	}
	return receipts, twin, duplicates, nil
}

// Receipt is the receipt of a stored record.
func (r *Record) Receipt() Receipt {
	return Receipt{EventID: r.ID, Partition: r.Partition, Offset: r.Offset, Stream: r.Stream, StreamVersion: r.StreamVersion, RecordedAt: r.RecordedAt}
}

// Walk checks the records of one partition, from its beginning, one after the other.
type Walk struct {
	Partition  int
	Partitions int // of the store
	Next       int64

	prev [32]byte
}

// Record checks the next record against the hash that is stored with it, and reports what is wrong.
func (w *Walk) Record(r *Record, hash []byte, fault func(Fault)) {
	if r.Offset != w.Next {
		fault(Fault{Partition: w.Partition, Offset: w.Next, Rule: "offset-gap", Detail: fmt.Sprintf("after offset %d comes %d", w.Next-1, r.Offset)})
	}
	want := Chain(w.prev, ContentDigest(&r.Event), w.Partition, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt)
	if !bytes.Equal(want[:], hash) {
		fault(Fault{Partition: w.Partition, Offset: r.Offset, EventID: r.ID, Rule: "hash-chain", Detail: "the record, or one before it, is not what was stored"})
	}
	if p := PartitionOf(r.PartitionKey, w.Partitions); p != w.Partition {
		fault(Fault{Partition: w.Partition, Offset: r.Offset, EventID: r.ID, Rule: "partition", Detail: fmt.Sprintf("its key belongs to partition %d", p)})
	}
	w.prev = [32]byte{}
	copy(w.prev[:], hash) // one fault is reported once, not for every record behind it
	w.Next = r.Offset + 1
}
