package driver

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/carebus/carebus/event"
)

func (e *ConflictError) Error() string {
	switch e.Expected {
	case NoStream:
		return fmt.Sprintf("stream %s: expected not to exist, but it is at version %d; load it again and decide anew", e.Stream, e.Actual)
	default:
		return fmt.Sprintf("stream %s: expected version %d, but it is at version %d; load it again and decide anew", e.Stream, e.Expected, e.Actual)
	}
}

// Is makes errors.Is(err, ErrConflict) hold.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// ContentDigest is the SHA-256 of what the producer said: every envelope member and the payload bytes, each preceded by
// its length so that no two contents share an encoding. Two events with equal digests are the same event; see also SameContent.
func ContentDigest(e *event.Event) [32]byte {
	h := sha256.New()
	var n [8]byte
	text := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	text(e.ID)
	text(e.Type)
	text(e.Source)
	text(e.CorrelationID)
	text(e.CausationID)
	binary.BigEndian.PutUint64(n[:], uint64(e.Timestamp))
	h.Write(n[:])
	text(e.Version)
	text(e.TraceID)
	text(e.PartitionKey)
	binary.BigEndian.PutUint64(n[:], uint64(len(e.Payload)))
	h.Write(n[:])
	h.Write(e.Payload)
	var d [32]byte
	h.Sum(d[:0])
	return d
}

// SameContent reports whether two events with one id say the same: an event that is published again is known by it. The trace
// may differ. It is no part of the fact, but of the way by which it came, and each try of a publication has another one.
func SameContent(a, b *event.Event) bool {
	if a.TraceID == b.TraceID {
		return ContentDigest(a) == ContentDigest(b)
	}
	c := *b
	c.TraceID = a.TraceID
	return ContentDigest(a) == ContentDigest(&c)
}

// Chain is the hash of a record: it depends on its content, on its place, and, through prev, on every record before it
// in the partition. The first record of a partition has the zero hash as prev.
func Chain(prev, content [32]byte, partition int, offset int64, stream string, version int64, recordedAt time.Time) [32]byte {
	b := make([]byte, 0, 256)
	b = append(b, prev[:]...)
	b = append(b, content[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	b = binary.BigEndian.AppendUint64(b, uint64(version))
	b = binary.BigEndian.AppendUint64(b, uint64(recordedAt.UnixMicro()))
	b = append(b, stream...)
	return sha256.Sum256(b)
}

// Twins returns, for each event of an append, the index of the first one with its id; nil when all ids differ.
func Twins(events []event.Event) []int {
	first := make(map[string]int, len(events))
	var out []int
	for i := range events {
		j, seen := first[events[i].ID]
		if !seen {
			first[events[i].ID] = i
			j = i
		} else if out == nil {
			out = make([]int, i, len(events))
			for k := range out {
				out[k] = k
			}
		}
		if out != nil {
			out = append(out, j)
		}
	}
	return out
}

// PartitionOf returns the partition of a key: murmur2 as in Apache Kafka's default partitioner, so that a key keeps its
// partition number when Kafka carries the events.
func PartitionOf(key string, partitions int) int {
	return int(murmur2(key)&0x7fffffff) % partitions
}

func murmur2(data string) uint32 {
	const (
		seed = uint32(0x9747b28c)
		m    = uint32(0x5bd1e995)
		r    = 24
	)
	h := seed ^ uint32(len(data))
	i := 0
	for ; i+4 <= len(data); i += 4 {
		k := uint32(data[i]) | uint32(data[i+1])<<8 | uint32(data[i+2])<<16 | uint32(data[i+3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) - i {
	case 3:
		h ^= uint32(data[i+2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[i+1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[i])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
