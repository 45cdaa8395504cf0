package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
)

// sse reads server-sent events: each call of next returns the id and data of one, or the error that ended the stream.
type sse struct {
	r      *bufio.Reader
	lastID string
}

func (s *sse) next() (data string, err error) {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && data != "":
			return data, nil
		case strings.HasPrefix(line, "id: "):
			s.lastID = line[4:]
		case strings.HasPrefix(line, "data: "):
			data += line[6:]
		}
	}
}

func follow(ctx context.Context, t testing.TB, url, lastID string) (*sse, io.Closer) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", res.StatusCode, res.Header)
	}
	return &sse{r: bufio.NewReader(res.Body)}, res.Body
}

// TestLiveIsResumed: a client that is cut 200 times while 100,000 events are stored sees each exactly once, in order per key.
func TestLiveIsResumed(t *testing.T) {
	events, cuts := 100_000, 200
	if testing.Short() {
		events, cuts = 5_000, 50
	}
	_, p, s := newGateway(t, nil)
	const keys = 50
	go func() {
		batch := make([]event.Event, 0, 100)
		for i := range events {
			batch = append(batch, enrolled(fmt.Sprint("P", i%keys), i/keys))
			if len(batch) == cap(batch) || i == events-1 {
				if _, err := p.PublishBatch(context.Background(), batch); err != nil {
					t.Error(err)
					return
				}
				batch = batch[:0]
			}
		}
	}()
	seen := make(map[string]int, keys)
	rnd := rand.New(rand.NewPCG(1, 2))
	url := s.URL + "/v1/live?type=patient.**&from=beginning"
	lastID, total, connections := "", 0, 0
	for total < events {
		ctx, cancel := context.WithCancel(context.Background())
		stream, body := follow(ctx, t, url, lastID)
		connections++
		until := total + 1 + rnd.IntN(8*events/cuts/5)
		for total < until && total < events {
			data, err := stream.next()
			if err != nil {
				t.Fatal(err)
			}
			var e struct {
				Payload struct {
					PatientID    string
					EnrollmentID string
				}
			}
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(seen[e.Payload.PatientID]); e.Payload.EnrollmentID != want {
				t.Fatalf("after %d events, key %s: got %s, want %s", total, e.Payload.PatientID, e.Payload.EnrollmentID, want)
			}
			seen[e.Payload.PatientID]++
			total++
			lastID = stream.lastID
		}
		cancel() // in the middle of whatever was under way
		body.Close()
	}
	if connections < cuts {
		t.Errorf("the client was cut %d times only", connections)
	}
	t.Logf("%d events over %d connections", total, connections)
}

// TestLiveFilters: what a client does not want does not reach it, and does not keep it from going on.
func TestLiveFilters(t *testing.T) {
	_, p, s := newGateway(t, &Options{Heartbeat: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, body := follow(ctx, t, s.URL+"/v1/live?type=patient.enrolled&key=P1&from=beginning", "")
	defer body.Close()
	publishMany(t, p, enrolled("P2", 0), enrolled("P1", 1), enrolled("P3", 2))
	data, err := stream.next()
	if err != nil || !strings.Contains(data, `"patientId":"P1"`) {
		t.Fatalf("%s, %v", data, err)
	}
	// A heartbeat tells the present place also when nothing was sent: a client that comes back begins there.
	publishMany(t, p, enrolled("P2", 3), enrolled("P2", 4))
	before := stream.lastID
	for stream.lastID == before {
		line, err := stream.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			stream.lastID = strings.TrimSpace(id)
		}
	}
	at, ok := parsePlaces(stream.lastID, p.Store().Partitions())
	heads, err := p.Store().Heads(ctx)
	if err != nil || !ok {
		t.Fatal(err, ok)
	}
	for i := range at {
		if at[i] > heads[i] {
			t.Errorf("partition %d: at %d, beyond the head %d", i, at[i], heads[i])
		}
	}
	publishMany(t, p, enrolled("P1", 5))
	again, body2 := follow(ctx, t, s.URL+"/v1/live?type=patient.enrolled&key=P1&format=cloudevents", stream.lastID)
	defer body2.Close()
	data, err = again.next()
	if err != nil || !strings.Contains(data, `"enrollmentId":"5"`) || !strings.Contains(data, `"specversion":"1.0"`) {
		t.Fatalf("%s, %v", data, err)
	}
}

// TestLiveLineBreaks: a payload is the text of its producer, line breaks included, and still one line of the stream.
func TestLiveLineBreaks(t *testing.T) {
	_, p, s := newGateway(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, body := follow(ctx, t, s.URL+"/v1/live?from=beginning", "")
	defer body.Close()
	e := enrolled("P1", 1)
	e.Payload = []byte("{\n\"patientId\":\r\n\"P1\",\r\"program\":{\"name\":\"a\\nb\"}\n}")
	publishMany(t, p, e)
	data, err := stream.next()
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := event.Parse([]byte(data), nil)
	if err != nil || got.ID != e.ID || !strings.Contains(string(got.Payload), `"a\nb"`) {
		t.Errorf("%s: %v", data, err)
	}
}

func TestLiveRefusals(t *testing.T) {
	_, _, s := newGateway(t, nil)
	for _, q := range []string{"?from=yesterday", "?from=AQ", "?type=patient..x", "?format=xml", "?from=" + strings.Repeat("A", 5000)} {
		if status, text := send(t, http.MethodGet, s.URL+"/v1/live"+q, nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", q, status, text)
		}
	}
}

// TestPlaces: the text of places leads back to them, and nothing else is taken for one.
func TestPlaces(t *testing.T) {
	for _, p := range []places{{}, {0}, {1, 2, 3}, {1 << 40, 0, 127, 128}} {
		got, ok := parsePlaces(p.String(), len(p))
		if !ok || fmt.Sprint(got) != fmt.Sprint(p) {
			t.Errorf("%v: %v %v", p, got, ok)
		}
		if _, ok := parsePlaces(p.String(), len(p)+1); ok {
			t.Errorf("%v was taken for the places of another store", p)
		}
	}
}

func FuzzPlaces(f *testing.F) {
	f.Add(places{1, 2, 3}.String(), 3)
	f.Add("AQ", 0)
	f.Fuzz(func(t *testing.T, text string, partitions int) {
		if partitions < 0 || partitions > 100 {
			return
		}
		if p, ok := parsePlaces(text, partitions); ok {
			again, ok := parsePlaces(p.String(), partitions)
			if !ok || fmt.Sprint(again) != fmt.Sprint(p) {
				t.Errorf("%q: %v, then %v", text, p, again)
			}
		}
	})
}
