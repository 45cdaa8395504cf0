package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
)

type found struct {
	Events []struct {
		Metadata struct {
			EventID       string
			EventType     string
			CorrelationID string
			PartitionKey  string
		}
		Payload    json.RawMessage
		Masked     bool
		RecordedAt time.Time
	}
	Next string
}

func (f found) ids() (out []string) {
	for _, e := range f.Events {
		out = append(out, e.Metadata.EventID)
	}
	return out
}

// searchAll follows cursors to the end.
func searchAll(t *testing.T, base, query string) (ids []string, pages int) {
	t.Helper()
	cursor := ""
	for {
		var f found
		if status := call(t, http.MethodGet, base+"/v1/events?"+query+cursor, nil, &f); status != http.StatusOK {
			t.Fatalf("%s%s: %d", query, cursor, status)
		}
		ids, pages = append(ids, f.ids()...), pages+1
		if f.Next == "" {
			return ids, pages
		}
		cursor = "&cursor=" + url.QueryEscape(f.Next)
	}
}

// TestSearch: each filter finds what it should and nothing else, in pages that together are everything, once.
func TestSearch(t *testing.T) {
	_, p, s := newGateway(t, nil)
	var all []event.Event
	for i := range 40 {
		e := enrolled(fmt.Sprint("P", i%4), i)
		e.ID, e.CorrelationID = fmt.Sprint("E", i), fmt.Sprint("C", i%5)
		if i%10 == 0 {
			e.Source = "portal"
		}
		all = append(all, e)
	}
	publishMany(t, p, all...)
	want := func(keep func(i int, e event.Event) bool) (out []string) {
		for i, e := range all {
			if keep(i, e) {
				out = append(out, e.ID)
			}
		}
		slices.Sort(out)
		return out
	}
	for query, keep := range map[string]func(i int, e event.Event) bool{
		"":                           func(int, event.Event) bool { return true },
		"type=patient.*":             func(int, event.Event) bool { return true },
		"type=medication.**":         func(int, event.Event) bool { return false },
		"key=P1":                     func(i int, _ event.Event) bool { return i%4 == 1 },
		"subject=P2":                 func(i int, _ event.Event) bool { return i%4 == 2 },
		"correlation=C3":             func(i int, _ event.Event) bool { return i%5 == 3 },
		"correlation=C3&key=P1":      func(i int, _ event.Event) bool { return i%5 == 3 && i%4 == 1 },
		"source=portal":              func(i int, _ event.Event) bool { return i%10 == 0 },
		"member=/enrollmentId=7":     func(i int, _ event.Event) bool { return i == 7 },
		"member=/program/name=Other": func(int, event.Event) bool { return false },
		"member=/patientId=P1&member=/program/name=Adherence": func(i int, _ event.Event) bool { return i%4 == 1 },
		"since=2000-01-01T00:00:00Z":                          func(int, event.Event) bool { return true },
		"until=2000-01-01T00:00:00Z":                          func(int, event.Event) bool { return false },
	} {
		for _, limit := range []string{"1", "3", "1000"} {
			got, _ := searchAll(t, s.URL, query+"&limit="+limit)
			slices.Sort(got)
			if !slices.Equal(got, want(keep)) {
				t.Errorf("%s, %s a page: %v, want %v", query, limit, got, want(keep))
			}
		}
	}
}

// TestSearchIsFrozen: what is stored after the first request of a search is not swept in.
func TestSearchIsFrozen(t *testing.T) {
	_, p, s := newGateway(t, nil)
	for _, query := range []string{"type=patient.**", "correlation=flow-P1", "key=P1"} {
		var first found
		publishMany(t, p, enrolled("P1", 1), enrolled("P1", 2), enrolled("P1", 3))
		before, _ := searchAll(t, s.URL, query)
		call(t, http.MethodGet, s.URL+"/v1/events?limit=1&"+query, nil, &first)
		publishMany(t, p, enrolled("P1", 4), enrolled("P1", 5))
		rest, _ := searchAll(t, s.URL, query+"&cursor="+url.QueryEscape(first.Next))
		if got := append(first.ids(), rest...); !slices.Equal(got, before) {
			t.Errorf("%s: %d events, then %d", query, len(before), len(got))
		}
	}
}

// TestRareEvents: a search that has looked at enough answers with what it has, even nothing, and its cursor goes on.
func TestRareEvents(t *testing.T) {
	g, p, s := newGateway(t, nil)
	g.scan = 30
	for range 3 {
		batch := make([]event.Event, 500)
		for i := range batch {
			batch[i] = enrolled(fmt.Sprint("P", i), i)
		}
		publishMany(t, p, batch...)
	}
	rare := enrolled("P7", 1000)
	rare.ID = "rare"
	publishMany(t, p, rare, enrolled("P8", 1001))
	for _, query := range []string{"member=/enrollmentId=1000", "type=medication.**", "key=P7", "subject=P7"} {
		got, pages := searchAll(t, s.URL, query)
		if query != "type=medication.**" && !slices.Contains(got, "rare") || query == "type=medication.**" && len(got) > 0 || pages < 2 && query != "key=P7" {
			t.Errorf("%s: %d events on %d pages", query, len(got), pages)
		}
		if query == "key=P7" && len(got) != 4 {
			t.Errorf("%s: %v", query, got)
		}
	}
}

// TestLongFlow: a flow that is longer than one reading of the store is found whole.
func TestLongFlow(t *testing.T) {
	_, p, s := newGateway(t, nil)
	const n = 3500
	for i := 0; i < n; i += 500 {
		batch := make([]event.Event, 500)
		for k := range batch {
			batch[k] = enrolled(fmt.Sprint("P", (i+k)%40), i+k) // over all partitions
			batch[k].CorrelationID = "long"
		}
		publishMany(t, p, batch...)
	}
	got, pages := searchAll(t, s.URL, "correlation=long&limit=700")
	distinct := slices.Compact(slices.Sorted(slices.Values(got)))
	if len(got) != n || len(distinct) != n || pages != n/700 {
		t.Errorf("%d events, %d of them different, on %d pages", len(got), len(distinct), pages)
	}
}

// TestSearchRefusals: a parameter that is misspelt or makes no sense is refused, rather than everything found.
func TestSearchRefusals(t *testing.T) {
	_, p, s := newGateway(t, nil)
	publishMany(t, p, enrolled("P1", 1))
	for _, query := range []string{
		"corelation=C1", "type=a..b", "limit=0", "limit=1001", "limit=x", "since=yesterday", "cursor=x", "cursor=AQ.AQ", "cursor=AQAAAAAAAAAAAAAAAA.AQAAAAAAAAAAAAAAAA.-1", "member=x", "member=patientId=P1", "payload=some",
	} {
		status, text := send(t, http.MethodGet, s.URL+"/v1/events?"+query, nil)
		if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity || !strings.Contains(string(text), `"status"`) {
			t.Errorf("%s: %d %s", query, status, text)
		}
	}
	for _, path := range []string{"/v1/live?typ=patient.**", "/v1/events/x?reveal=1", "/v1/groups?x=1"} {
		if status, text := send(t, http.MethodGet, s.URL+path, nil); status != http.StatusBadRequest && status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text := send(t, http.MethodPost, s.URL+"/v1/events?atomc=false", `{}`); status != http.StatusBadRequest {
		t.Errorf("publish: %d %s", status, text)
	}
}

// TestPayloadsAreMasked: what the schema protects is hidden when asked, and left out when not wanted.
func TestPayloadsAreMasked(t *testing.T) {
	_, p, s := newGateway(t, nil)
	e := event.Event{
		Metadata: event.Metadata{ID: "E1", Type: "patient.record.created", Source: "patient-service", Version: "1.0.0", CorrelationID: "C", Timestamp: 1763900000000},
		Payload:  json.RawMessage(`{"patientId":"P1","firstName":"Canary","lastName":"Bird","dateOfBirth":"1961-05-01"}`),
	}
	publishMany(t, p, e)
	for payload, want := range map[string]bool{"full": true, "masked": false, "none": false} {
		for _, path := range []string{"/v1/events?payload=" + payload, "/v1/events/E1?payload=" + payload, "/v1/streams"} {
			status, text := send(t, http.MethodGet, s.URL+path, nil)
			if status != http.StatusOK || strings.Contains(string(text), "Canary") != (want && path != "/v1/streams") {
				t.Errorf("%s: %d %s", path, status, text)
			}
		}
	}
}
