package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carebus/carebus/event"
)

// BenchmarkPublish is the gateway's own share: requests are handed to it without a network. Beside it, the same events
// published without it.
func BenchmarkPublish(b *testing.B) {
	g, p, _ := newGateway(b, nil)
	body := func(n int) string {
		var text []byte
		for range n {
			e := enrolled("P"+event.NewID(), 1)
			text = append(e.AppendJSON(append(text, ',')), '\n')
		}
		if n == 1 {
			return string(text[1:])
		}
		return "[" + string(text[1:]) + "]"
	}
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("http/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := httptest.NewRequest(http.MethodPost, "/v1/events", strings.NewReader(body(size)))
					r.Header.Set("Content-Type", "application/json")
					w := httptest.NewRecorder()
					g.ServeHTTP(w, r)
					if w.Code != http.StatusCreated {
						b.Fatal(w.Code, w.Body)
					}
				}
			})
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
		b.Run(fmt.Sprintf("inprocess/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					events := make([]event.Event, size)
					for i := range events {
						events[i] = enrolled("P"+event.NewID(), 1)
					}
					if _, err := p.PublishBatch(context.Background(), events); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
