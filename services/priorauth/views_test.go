package priorauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/carebus/carebus/carebustest"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/services/priorauth"
)

// TestViewsAreTheFold: after any commands the read models say of every request what its history says, to who has waited
// for it.
func TestViewsAreTheFold(t *testing.T) {
	p := carebustest.Open(t)
	if err := projection.Register(t.Context(), p, priorauth.Views); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ids := []string{fmt.Sprintf("PA%d-1", n), fmt.Sprintf("PA%d-2", n)}
		patient := fmt.Sprint("P", n)
		for range rapid.IntRange(1, 15).Draw(t, "commands") {
			var c priorauth.Command
			switch rapid.IntRange(0, 8).Draw(t, "command") {
			case 0:
				c = priorauth.Create{RequestCreated: catalog.RequestCreated{PatientID: patient, PrescriptionID: "RX1", Medication: catalog.Medication{Name: "Humira"}}}
			case 1, 2:
				c = priorauth.Submit{RequestSubmitted: catalog.RequestSubmitted{PatientID: patient, Medication: &catalog.Medication{Name: "Enbrel"}}}
			case 3:
				c = priorauth.Update{Fields: json.RawMessage(`{"medication":{"name":"` + rapid.SampledFrom([]string{"Humira", "Amjevita"}).Draw(t, "name") + `"}}`), Reason: "a biosimilar"}
			case 4:
				c = priorauth.RequestInformation{StatusPending: catalog.StatusPending{Missing: []catalog.MissingItem{{Field: "daysSupply", Ask: "For how long?"}}}}
			case 5:
				c = priorauth.Approve{}
			case 6:
				c = priorauth.Deny{StatusDenied: catalog.StatusDenied{Reasons: []catalog.Reason{{Code: "STEP-THERAPY"}}}}
			case 7:
				c = priorauth.Appeal{}
			case 8:
				c = priorauth.Cancel{Reason: "sent twice"}
			}
			_, err := priorauth.Do(context.Background(), p, rapid.SampledFrom(ids).Draw(t, "id"), c)
			var refused *priorauth.RefusedError
			if err != nil && !errors.As(err, &refused) {
				t.Fatal(err)
			}
		}
		listed := map[string]priorauth.Summary{}
		for _, id := range ids {
			records, err := p.Store().Stream(context.Background(), eventstore.StreamQuery{Stream: "priorauth.request/" + id, From: 1, Limit: 100})
			if errors.Is(err, eventstore.ErrNotFound) || len(records) == 0 {
				if _, err := priorauth.DetailOf(context.Background(), p.Store(), id); !errors.Is(err, priorauth.ErrNoRequest) {
					t.Fatalf("%s: %v, want ErrNoRequest", id, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			last := records[len(records)-1]
			if err := projection.Wait(context.Background(), p, priorauth.Views, eventstore.Receipt{EventID: last.ID, Partition: last.Partition, Offset: last.Offset}); err != nil {
				t.Fatal(err)
			}
			want, err := priorauth.Requests.Load(context.Background(), p, id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := priorauth.DetailOf(context.Background(), p.Store(), id)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := encoded(t, got.Request), encoded(t, want.State); a != b {
				t.Fatalf("%s: the detail is %s\nits history says %s", id, a, b)
			}
			if len(got.Events) != len(records) {
				t.Fatalf("%s: %d events, want %d", id, len(got.Events), len(records))
			}
			for i, r := range records {
				if got.Events[i].ID != r.ID {
					t.Fatalf("%s: event %d is %s, want %s", id, i, got.Events[i].ID, r.ID)
				}
			}
			listed[id] = priorauth.Summary{
				PriorAuthID: id, PatientID: patient, MedicationName: want.State.Medication.Name, Status: want.State.Status,
				CreatedAt: want.State.CreatedAt.UTC(), LastUpdated: want.State.LastUpdated,
			}
		}
		list, err := priorauth.Summaries(context.Background(), p.Store(), patient)
		if err != nil || len(list) != len(listed) {
			t.Fatalf("%d requests are listed, want %d; %v", len(list), len(listed), err)
		}
		for _, s := range list {
			if s != listed[s.PriorAuthID] {
				t.Fatalf("listed as %+v, want %+v", s, listed[s.PriorAuthID])
			}
		}
	})
	carebustest.Settle(t, p)
	if found, err := projection.Check(t.Context(), p, priorauth.Views, nil); err != nil || len(found) > 0 {
		t.Errorf("a rebuild differs: %+v, %v", found, err)
	}
}

func encoded(t *rapid.T, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
