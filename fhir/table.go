package fhir

import (
	"encoding/binary"
	"fmt"
	"os"
)

// key is the start of a SHA-256: 128 bits, so that two of a billion different keys do not meet.
type key [16]byte

// table maps keys to numbers. It lives in memory until it has limit entries, then in a temporary file of open-addressed
// slots, so that its memory does not grow with the input. A slot is the key (16 bytes) and the number plus one (8
// bytes, little endian); a zero number means that the slot is free.
type table struct {
	dir   string
	limit int
	mem   map[key]uint64
	count int64

	f     *os.File
	slots int64
}

const slotSize = 24

func (t *table) get(k key) (uint64, bool, error) {
	if t.f == nil {
		v, ok := t.mem[k]
		return v, ok, nil
	}
	_, v, err := t.find(k)
	if err != nil || v == 0 {
		return 0, false, err
	}
	return v - 1, true, nil
}

func (t *table) put(k key, v uint64) error {
	if t.f == nil {
		if t.mem == nil {
			t.mem = make(map[key]uint64)
		}
		t.mem[k] = v
		if len(t.mem) <= t.limit {
			return nil
		}
		t.count = 0
		spilled := t.mem
		if err := t.grow(nextPower(int64(len(spilled)) * 4)); err != nil {
			return err
		}
		for k, v := range spilled {
			if err := t.insert(k, v); err != nil {
				return err
			}
		}
		t.mem = nil
		return nil
	}
	if t.count*10 > t.slots*7 {
		if err := t.rehash(); err != nil {
			return err
		}
	}
	return t.insert(k, v)
}

func (t *table) insert(k key, v uint64) error {
	at, old, err := t.find(k)
	if err != nil {
		return err
	}
	if old == 0 {
		t.count++
	}
	var slot [slotSize]byte
	copy(slot[:], k[:])
	binary.LittleEndian.PutUint64(slot[16:], v+1)
	if _, err := t.f.WriteAt(slot[:], at*slotSize); err != nil {
		return fmt.Errorf("fhir: temporary table: %w", err)
	}
	return nil
}

// find returns the slot of k, or the free slot where it would go, and its stored number.
func (t *table) find(k key) (at int64, v uint64, err error) {
	var slot [slotSize]byte
	for at = int64(binary.LittleEndian.Uint64(k[:8]) & uint64(t.slots-1)); ; at = (at + 1) & (t.slots - 1) {
		if _, err := t.f.ReadAt(slot[:], at*slotSize); err != nil {
			return 0, 0, fmt.Errorf("fhir: temporary table: %w", err)
		}
		v = binary.LittleEndian.Uint64(slot[16:])
		if v == 0 || key(slot[:16]) == k {
			return at, v, nil
		}
	}
}

// grow replaces the file by an empty one with n slots.
func (t *table) grow(n int64) error {
	f, err := tempFile(t.dir)
	if err != nil {
		return fmt.Errorf("fhir: temporary table: %w", err)
	}
	if err := f.Truncate(n * slotSize); err != nil {
		f.Close()
		os.Remove(f.Name())
		return fmt.Errorf("fhir: temporary table: %w", err)
	}
	t.f, t.slots = f, n
	return nil
}

// rehash doubles the file, copying block by block.
func (t *table) rehash() error {
	old, slots := t.f, t.slots
	if err := t.grow(slots * 2); err != nil {
		return err
	}
	defer func() { old.Close(); os.Remove(old.Name()) }()
	t.count = 0
	block := make([]byte, slotSize*1024)
	for at := int64(0); at < slots; at += 1024 {
		n, _ := old.ReadAt(block, at*slotSize)
		for i := 0; i+slotSize <= n; i += slotSize {
			if v := binary.LittleEndian.Uint64(block[i+16:]); v != 0 {
				if err := t.insert(key(block[i:i+16]), v-1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (t *table) close() {
	if t.f != nil {
		t.f.Close()
		os.Remove(t.f.Name())
	}
	t.f, t.mem = nil, nil
}

func nextPower(n int64) int64 {
	p := int64(1024)
	for p < n {
		p *= 2
	}
	return p
}

// spool is an append-only run of records, in memory until it has limit bytes, then in a temporary file.
type spool struct {
	dir   string
	limit int64
	mem   []byte
	f     *os.File
	size  int64
}

// add appends a record and returns where it is.
func (s *spool) add(rec []byte) (uint64, error) {
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(rec)))
	at := s.size
	if s.f == nil && s.size+int64(len(rec)) > s.limit {
		f, err := tempFile(s.dir)
		if err != nil {
			return 0, fmt.Errorf("fhir: temporary file: %w", err)
		}
		s.f = f
		if _, err := f.WriteAt(s.mem, 0); err != nil {
			return 0, fmt.Errorf("fhir: temporary file: %w", err)
		}
		s.mem = nil
	}
	s.size += int64(len(head) + len(rec))
	if s.f == nil {
		s.mem = append(append(s.mem, head[:]...), rec...)
		return uint64(at), nil
	}
	if _, err := s.f.WriteAt(append(head[:], rec...), at); err != nil {
		return 0, fmt.Errorf("fhir: temporary file: %w", err)
	}
	return uint64(at), nil
}

// get returns the record that add put at a place. The caller must not change it.
func (s *spool) get(place uint64) ([]byte, error) {
	at := int64(place)
	if s.f == nil {
		n := int64(binary.LittleEndian.Uint32(s.mem[at:]))
		return s.mem[at+4 : at+4+n], nil
	}
	var head [4]byte
	if _, err := s.f.ReadAt(head[:], at); err != nil {
		return nil, fmt.Errorf("fhir: temporary file: %w", err)
	}
	rec := make([]byte, binary.LittleEndian.Uint32(head[:]))
	if _, err := s.f.ReadAt(rec, at+4); err != nil {
		return nil, fmt.Errorf("fhir: temporary file: %w", err)
	}
	return rec, nil
}

func (s *spool) close() {
	if s.f != nil {
		s.f.Close()
		os.Remove(s.f.Name())
	}
	s.f, s.mem = nil, nil
}
