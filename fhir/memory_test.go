package fhir_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"testing"

	"github.com/carebus/carebus/fhir"
)

// generator streams n patients with a practitioner, a condition and two prescriptions each, one resource per line, or
// as one bundle, without ever holding them.
type generator struct {
	n, next int
	bundle  bool
	buf     bytes.Buffer
}

func (g *generator) Read(p []byte) (int, error) {
	for g.buf.Len() == 0 {
		if g.next > g.n {
			return 0, io.EOF
		}
		g.fill(g.next)
		g.next++
	}
	return g.buf.Read(p)
}

func (g *generator) fill(i int) {
	if g.bundle && i == 0 {
		g.buf.WriteString(`{"resourceType":"Bundle","type":"collection","entry":[`)
	}
	if i == g.n {
		if g.bundle {
			g.buf.WriteString(`{}]}`)
		} else {
			g.buf.WriteString("\n")
		}
		return
	}
	put := func(kind, id, rest string) {
		r := fmt.Sprintf(`{"resourceType":"%s","id":"%s",%s,"text":{"div":"%0200d"}}`, kind, id, rest, 7)
		if g.bundle {
			fmt.Fprintf(&g.buf, `{"fullUrl":"urn:uuid:%s","resource":%s},`, id, r)
		} else {
			g.buf.WriteString(r + "\n")
		}
	}
	for k := range 2 {
		put("MedicationRequest", fmt.Sprintf("m%d-%d", i, k), fmt.Sprintf(
			`"status":"active","intent":"order","subject":{"reference":"urn:uuid:p%d"},"authoredOn":"2019-01-01","requester":{"reference":"urn:uuid:d%d"},"reasonReference":[{"reference":"Condition/c%d"}],"medicationCodeableConcept":{"text":"drug %d"}`, i, i, i, k))
	}
	put("Patient", fmt.Sprintf("p%d", i), fmt.Sprintf(`"name":[{"family":"F%d","given":["G"]}],"birthDate":"1950-01-01"`, i))
	put("Condition", fmt.Sprintf("c%d", i), `"code":{"text":"something"}`)
	put("Practitioner", fmt.Sprintf("d%d", i), fmt.Sprintf(`"name":[{"family":"D%d"}],"identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"%010d"}]`, i, i))
}

// TestMemoryIsFlat imports two inputs, one eight times the other, with a small limit: the live heap must not follow.
func TestMemoryIsFlat(t *testing.T) {
	for _, bundle := range []bool{false, true} {
		t.Run(fmt.Sprintf("bundle=%v", bundle), func(t *testing.T) {
			small, large := peakHeap(t, 500, bundle), peakHeap(t, 4000, bundle)
			t.Logf("live heap %d KiB for 2,500 resources, %d KiB for 20,000", small>>10, large>>10)
			if large > small+(4<<20) {
				t.Errorf("heap grew from %d to %d KiB", small>>10, large>>10)
			}
		})
	}
}

func peakHeap(t *testing.T, n int, bundle bool) uint64 {
	t.Helper()
	var base, peak uint64
	live := func() uint64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	base = live()
	events, prescribers := 0, 0
	o := &fhir.Options{
		Stdin: &generator{n: n, bundle: bundle}, MemoryLimit: 256 << 10,
		Progress: func(fhir.Report) { peak = max(peak, live()) },
	}
	rep, err := fhir.New(o).Run(context.Background(), []string{"-"}, func(_ context.Context, items []fhir.Item) error {
		events += len(items)
		for _, it := range items {
			if bytes.Contains(it.Event.Payload, []byte(`"npi"`)) && it.Type == "MedicationRequest" {
				prescribers++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checkAccount(t, rep, int64(events))
	if got := rep.Events["medication.prescription.created"]; got != int64(2*n) || prescribers != 2*n {
		t.Errorf("%d prescriptions, %d with their prescriber, want %d", got, prescribers, 2*n)
	}
	if rep.Total.Duplicates != 0 {
		t.Errorf("%d duplicates in distinct input", rep.Total.Duplicates)
	}
	if peak < base {
		return 0
	}
	return peak - base
}
