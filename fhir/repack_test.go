package fhir_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/carebus/carebus/fhir"
)

var urnUUID = regexp.MustCompile(`"urn:uuid:([^"]+)"`)

// repack writes Synthea bundles as a bulk export: a file per type, relative references, lines and files in any order.
func repack(t *testing.T, bundles []string, rnd *rand.Rand) string {
	t.Helper()
	kinds := map[string]string{}
	lines := map[string][]string{}
	var raw []json.RawMessage
	for _, path := range bundles {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		var b struct {
			Entry []struct{ Resource json.RawMessage }
		}
		if err := json.Unmarshal(text, &b); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Entry {
			var head struct{ ResourceType, ID string }
			if err := json.Unmarshal(e.Resource, &head); err != nil {
				t.Fatal(err)
			}
			kinds[head.ID] = head.ResourceType
			raw = append(raw, e.Resource)
		}
	}
	for _, r := range raw {
		var line bytes.Buffer
		if err := json.Compact(&line, r); err != nil {
			t.Fatal(err)
		}
		var head struct{ ResourceType string }
		if err := json.Unmarshal(r, &head); err != nil {
			t.Fatal(err)
		}
		text := urnUUID.ReplaceAllStringFunc(line.String(), func(m string) string {
			id := urnUUID.FindStringSubmatch(m)[1]
			if kinds[id] == "" {
				return m
			}
			return `"` + kinds[id] + "/" + id + `"`
		})
		lines[head.ResourceType] = append(lines[head.ResourceType], text)
	}
	out := files{}
	for kind, l := range lines {
		rnd.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
		out[fmt.Sprintf("%03d.%s.ndjson", rnd.IntN(1000), kind)] = strings.Join(l, "\r\n") + "\r\n"
	}
	return write(t, out)
}

func someBundles(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, folder := range []string{"synthea-r4-v3.0", "synthea-r4-2020", "synthea-r4-v2.5"} {
		found, err := filepath.Glob(filepath.Join(dataDir(t, "fhir-dev"), folder, "*_*.json.gz"))
		if err != nil {
			t.Fatal(err)
		}
		sort.Strings(found)
		all = append(all, found[:min(5, len(found))]...)
	}
	return all
}

func byID(items []fhir.Item) map[string]string {
	out := make(map[string]string, len(items))
	for _, it := range items {
		e := it.Event
		out[e.ID] = fmt.Sprint(e.Type, e.Version, e.Timestamp, e.CorrelationID, e.CausationID, e.PartitionKey, string(e.Payload))
	}
	return out
}

// TestRepackaged: bundles and a shuffled bulk export of the same population give the same events, to the byte.
func TestRepackaged(t *testing.T) {
	t.Parallel()
	bundles := someBundles(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	first, _ := importAll(t, nil, bundles...)
	again, _ := importAll(t, nil, bundles...)
	second, _ := importAll(t, nil, repack(t, bundles, rand.New(rand.NewPCG(seed, 1))))
	want, got := byID(first), byID(second)
	if len(want) != len(first) {
		t.Errorf("%d events with %d ids", len(first), len(want))
	}
	differ := 0
	for id, w := range want {
		if g := got[id]; g != w {
			if differ++; differ <= 5 {
				t.Errorf("event %s\nbundle %s\nexport %s", id, w, g)
			}
		}
	}
	if differ > 0 || len(got) != len(want) {
		t.Errorf("%d of %d events differ, export has %d", differ, len(want), len(got))
	}
	if len(byID(again)) != len(want) || fmt.Sprint(again) != fmt.Sprint(first) {
		t.Error("a second import of the same files differs from the first")
	}
	both, rep := importAll(t, nil, append(bundles, repack(t, bundles, rand.New(rand.NewPCG(seed, 2))))...)
	if len(both) != len(first) {
		t.Errorf("both packagings in one import give %d events, want %d (duplicates %d)", len(both), len(first), rep.Total.Duplicates)
	}
}
