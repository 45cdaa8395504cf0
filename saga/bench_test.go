package saga_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/saga"
)

// BenchmarkSagas: one operation is a saga of five steps, from its start to its end, durable. The steps of "do" write a
// row each; "call" has an outside call, answered at once, as its third step.
func BenchmarkSagas(b *testing.B) {
	note := func(_ context.Context, tx bus.Tx, s *order) error {
		_, err := tx.Exec(`UPDATE counts SET n = n + 1 WHERE k = $1`, 1)
		return err
	}
	step := func(n int) saga.Step[order] { return saga.Do(fmt.Sprint("s", n), note).Compensate(note) }
	call := saga.Call("s3", func(context.Context, string, order) (int, error) { return 1, nil }, nil)
	for name, third := range map[string]saga.Step[order]{"do": step(3), "call": call} {
		d := saga.Define("bench", 1, step(1), step(2), third, step(4), step(5))
		b.Run(name, func(b *testing.B) {
			h := &house{t: b, store: openStore(b, filepath.Join(b.TempDir(), "bench.db"), nil)}
			if err := h.store.Migrate(b.Context(), "bench", `CREATE TABLE counts (k BIGINT PRIMARY KEY, n BIGINT NOT NULL); INSERT INTO counts VALUES (1, 0);`); err != nil {
				b.Fatal(err)
			}
			h.run(d)
			b.ResetTimer()
			work := make(chan int)
			done := make(chan error)
			const starters = 32
			for range starters {
				go func() {
					var err error
					for n := range work {
						if err == nil {
							err = d.Start(context.Background(), h.store, fmt.Sprint("saga-", n), order{RX: "RX12345678"})
						}
					}
					done <- err
				}()
			}
			for n := range b.N {
				work <- n
			}
			close(work)
			for range starters {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			h.settle()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sagas/s")
			n, err := saga.Count(b.Context(), h.store, "bench")
			if err != nil || n[1][saga.Completed] != b.N {
				b.Fatalf("%v of %d completed; %v", n, b.N, err)
			}
			h.stop()
		})
	}
}
