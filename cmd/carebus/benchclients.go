package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/event"
)

// clientResult is what the process of the clients prints when it is done. Times are microseconds.
type clientResult struct {
	Count   int64   `json:"count"`
	Seconds float64 `json:"seconds"`
	Median  float64 `json:"median"`
	P99     float64 `json:"p99"`
}

// liveMark begins the correlation of events whose way to the clients is measured; the time of publishing follows.
const liveMark = "bench-"

// benchClients are the other side of `carebus bench http`.
type benchClients struct {
	url                        string
	events, connections, batch int
	client                     *http.Client
}

func newBenchClientsCommand() *cobra.Command {
	var b benchClients
	cmd := &cobra.Command{
		Use:       "clients URL publish|follow|consume",
		Short:     "The clients of bench http",
		Hidden:    true,
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"publish", "follow", "consume"},
		RunE: func(cmd *cobra.Command, args []string) error {
			b.url = args[0]
			b.client = &http.Client{Transport: &http.Transport{MaxConnsPerHost: b.connections, MaxIdleConnsPerHost: b.connections}}
			defer b.client.CloseIdleConnections()
			do := map[string]func(context.Context, func()) (clientResult, error){"publish": b.publish, "follow": b.follow, "consume": b.consume}[args[1]]
			if do == nil {
				return usagef("%s: give publish, follow or consume", args[1])
			}
			r, err := do(cmd.Context(), func() { fmt.Fprintln(cmd.OutOrStdout(), "ready") })
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), r)
		},
	}
	cmd.Flags().IntVar(&b.events, "events", 1000, "events")
	cmd.Flags().IntVar(&b.connections, "connections", 64, "connections")
	cmd.Flags().IntVar(&b.batch, "batch", 1, "events in a request")
	return cmd
}

// inParallel does something n times, so many at once.
func inParallel(workers, n int, do func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if errs[w] = do(i); errs[w] != nil {
					next.Add(int64(n))
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// post sends JSON and reads the answer.
func (b *benchClients) post(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, b.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

func (b *benchClients) publish(ctx context.Context, ready func()) (clientResult, error) {
	ready()
	mark := strconv.Itoa(os.Getpid()) + "-"
	n := b.events / b.batch
	times := make([]time.Duration, n)
	begin := time.Now()
	err := inParallel(b.connections, n, func(i int) error {
		body := make([]byte, 0, b.batch*1200)
		for k := range b.batch {
			e := benchEvent("RX" + mark + strconv.Itoa(i*b.batch+k))
			e.ID = event.NewID()
			e.CorrelationID, e.Timestamp = e.ID, time.Now().UnixMilli()
			body = append(body, "[,"[min(k, 1)])
			body = e.AppendJSON(body)
		}
		if body = append(body, ']'); b.batch == 1 {
			body = body[1 : len(body)-1]
		}
		t := time.Now()
		err := b.post(ctx, http.MethodPost, "/v1/events", body, nil)
		times[i] = time.Since(t)
		return err
	})
	return result(int64(n*b.batch), begin, times), err
}

func result(n int64, begin time.Time, times []time.Duration) clientResult {
	return clientResult{Count: n, Seconds: time.Since(begin).Seconds(), Median: micros(percentile(times, 0.5)), P99: micros(percentile(times, 0.99))}
}

// follow reads live streams, each until it has seen all events.
func (b *benchClients) follow(ctx context.Context, ready func()) (clientResult, error) {
	streams := make([]*http.Response, b.connections)
	defer func() {
		for _, res := range streams {
			if res != nil {
				res.Body.Close()
			}
		}
	}()
	err := inParallel(32, b.connections, func(i int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/v1/live?type="+benchType, nil)
		if err != nil {
			return err
		}
		//nolint:bodyclose // all are closed above, when the streams are read
		if streams[i], err = b.client.Do(req); err == nil && streams[i].StatusCode != http.StatusOK {
			err = fmt.Errorf("live: %s", streams[i].Status)
		}
		return err
	})
	if err != nil {
		return clientResult{}, err
	}
	ready()
	begin := time.Now()
	mark := []byte(`"correlationId":"` + liveMark)
	times := make([][]time.Duration, b.connections)
	err = inParallel(b.connections, b.connections, func(i int) error {
		lines := bufio.NewReaderSize(streams[i].Body, 16<<10)
		for seen := 0; seen < b.events; {
			line, err := lines.ReadSlice('\n')
			if err != nil {
				return fmt.Errorf("live stream %d after %d events: %w", i, seen, err)
			}
			at := bytes.Index(line, mark)
			if at < 0 {
				continue
			}
			digits := line[at+len(mark):]
			sent, err := strconv.ParseInt(string(digits[:bytes.IndexByte(digits, '"')]), 10, 64)
			if err != nil {
				return err
			}
			times[i] = append(times[i], time.Since(time.Unix(0, sent)))
			seen++
		}
		return nil
	})
	return result(int64(b.connections*b.events), begin, slices.Concat(times...)), err
}

// consume fetches events by lease and acknowledges them.
func (b *benchClients) consume(ctx context.Context, ready func()) (clientResult, error) {
	group := "bench-" + event.NewID()
	if err := b.post(ctx, http.MethodPut, "/v1/groups/"+group, []byte(`{"patterns":["`+benchType+`"],"inFlight":10000}`), nil); err != nil {
		return clientResult{}, err
	}
	ready()
	var done atomic.Int64
	begin := time.Now()
	err := inParallel(b.connections, b.connections, func(int) error {
		for done.Load() < int64(b.events) {
			var got struct {
				Events []struct {
					Lease string `json:"lease"`
				} `json:"events"`
			}
			if err := b.post(ctx, http.MethodPost, "/v1/groups/"+group+"/fetch", []byte(`{"max":500,"waitSeconds":1}`), &got); err != nil {
				return err
			}
			if len(got.Events) == 0 {
				continue
			}
			ack := struct {
				Leases []string `json:"leases"`
			}{}
			for _, e := range got.Events {
				ack.Leases = append(ack.Leases, e.Lease)
			}
			body, err := json.Marshal(ack)
			if err != nil {
				return err
			}
			if err := b.post(ctx, http.MethodPost, "/v1/groups/"+group+"/ack", body, nil); err != nil {
				return err
			}
			done.Add(int64(len(got.Events)))
		}
		return nil
	})
	return clientResult{Count: done.Load(), Seconds: time.Since(begin).Seconds()}, err
}
