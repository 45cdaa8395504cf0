package projection_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// TestCheck: a sound projection has no difference, while writes go on; rows that were changed, added or removed behind its
// back are counted, and the live tables stay as they are.
func TestCheck(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	receipts := publishSteps(t, s, 10, 1, 50)
	must(t, projection.Wait(t.Context(), p, d, receipts...))

	var wg sync.WaitGroup
	wg.Go(func() { publishSteps(t, s, 10, 51, 100) })
	found, err := projection.Check(t.Context(), p, d, nil)
	wg.Wait()
	if err != nil || len(found) != 0 {
		t.Errorf("%+v, %v; want no difference", found, err)
	}

	idle(t, p)
	wantAll(t, dump(t, s), 10, 100)
	for _, change := range []struct {
		text string
		want projection.Difference
	}{
		{`UPDATE counts_g1 SET total = total + 1 WHERE key = (SELECT MIN(key) FROM counts_g1)`, projection.Difference{Table: "counts", Missing: 1, Extra: 1}},
		{`INSERT INTO counts_g1 (key, n, total) VALUES ('nobody', 1, 1)`, projection.Difference{Table: "counts", Missing: 1, Extra: 2}},
		{`DELETE FROM counts_g1 WHERE key = (SELECT MAX(key) FROM counts_g1 WHERE key <> 'nobody')`, projection.Difference{Table: "counts", Missing: 2, Extra: 2}},
	} {
		must(t, s.Update(t.Context(), func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(context.Background(), change.text)
			return err
		}))
		found, err := projection.Check(t.Context(), p, d, nil)
		if err != nil || fmt.Sprint(found) != fmt.Sprint([]projection.Difference{change.want}) {
			t.Errorf("%s: %+v, %v; want %+v", change.text, found, err, change.want)
		}
	}
	if status, err := projection.Get(t.Context(), s, d.Name()); err != nil || status.Generation != 1 || status.Build != nil {
		t.Errorf("%+v, %v; want the first generation, and no build", status, err)
	}
	onlyTables(t, s, "counts_g1")
}
