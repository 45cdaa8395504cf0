package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/carebus/carebus/auth"
)

// TestNewestFirst goes through the pages of a search that begins with the newest events, with each way of finding them.
func TestNewestFirst(t *testing.T) {
	_, p, s := newGateway(t, nil)
	var ids []string
	for i := range 95 {
		e := enrolled(fmt.Sprint("P", i%7), i)
		e.CorrelationID, e.Timestamp = "all", e.Timestamp+int64(i)
		ids = append(ids, e.ID)
		publishMany(t, p, e)
	}
	for _, query := range []string{"type=patient.**", "type=patient.enrolled", "", "correlation=all", "text=adHERence", "source=patient-service"} {
		seen, next, pages := []string{}, "", 0
		for {
			var out struct {
				Events []struct{ Metadata struct{ EventID string } }
				Next   string
			}
			if status := call(t, "GET", s.URL+"/v1/events?order=newest&limit=10&"+query+"&cursor="+url.QueryEscape(next), nil, &out); status != 200 {
				t.Fatalf("%s: %d", query, status)
			}
			if pages++; pages == 1 {
				late := enrolled("P1", 1000+len(query))
				late.CorrelationID = "all"
				late.Timestamp++
				publishMany(t, p, late)
				ids = append(ids, late.ID)
			}
			for _, e := range out.Events {
				seen = append(seen, e.Metadata.EventID)
			}
			if next = out.Next; next == "" {
				break
			}
			if pages > 1000 {
				t.Fatalf("%s: no end", query)
			}
		}
		want := ids[:len(ids)-1] // not the one that came after the first page
		count := map[string]int{}
		for _, id := range seen {
			count[id]++
		}
		for _, id := range want {
			if count[id] != 1 {
				t.Fatalf("%s: %s was seen %d times", query, id, count[id])
			}
		}
		if len(seen) != len(want) {
			t.Errorf("%s: %d events, not %d", query, len(seen), len(want))
		}
		if query != "type=patient.**" && query != "type=patient.enrolled" && seen[0] != want[len(want)-1] {
			t.Errorf("%s does not begin with the newest", query)
		}
	}
	if status := call(t, "GET", s.URL+"/v1/events?order=newest&type=patient.enrolled&cursor=AQ~x", nil, nil); status != http.StatusBadRequest {
		t.Errorf("a wrong cursor: %d", status)
	}
}

// TestMountWithTheGateway has a mounted handler let callers in by itself, and ask the gateway on their behalf.
func TestMountWithTheGateway(t *testing.T) {
	token, hash := auth.NewToken()
	door, err := auth.Parse([]byte("principals:\n  - name: maria\n    tokens: [\"" + hash + "\"]\n    read: [\"patient.**\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, s := newGateway(t, &Options{Door: door, Mount: map[string]Mount{"/inside": {Open: true, Make: func(g *Gateway) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("in") != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			r, leave, err := g.Enter(r)
			if err != nil {
				writeProblem(w, err)
				return
			}
			defer leave()
			ask := r.Clone(r.Context())
			ask.URL, ask.Method = &url.URL{Path: r.URL.Query().Get("ask")}, http.MethodGet
			ask.Header = http.Header{} // the credentials are in the context
			if Caller(ask.Context()).Name != "maria" {
				t.Error("the caller is lost")
			}
			g.ServeHTTP(w, ask)
		})
	}}}})
	for path, status := range map[string]int{"/inside?ask=/v1/events": 401, "/inside?in=1&ask=/v1/events": 200, "/inside?in=1&ask=/v1/projections": 403, "/v1/events": 401} {
		got, text := send(t, "GET", s.URL+path, nil)
		if got != status || !json.Valid(text) {
			t.Errorf("%s: %d %s", path, got, text)
		}
	}
}
