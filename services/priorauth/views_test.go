package priorauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
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
		var receipts []eventstore.Receipt
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
			now, err := priorauth.Do(context.Background(), p, rapid.SampledFrom(ids).Draw(t, "id"), c)
			var refused *priorauth.RefusedError
			if err != nil && !errors.As(err, &refused) {
				t.Fatal(err)
			}
			receipts = append(receipts, now.Receipts...)
		}
		if err := projection.Wait(context.Background(), p, priorauth.Views, receipts...); err != nil {
			t.Fatal(err)
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

// TestViewsOfOtherEvents: the deprecated types, moves that have no event of their own, an answer to the payer, events that
// leave out what they may leave out, and events about a request that nobody has made.
func TestViewsOfOtherEvents(t *testing.T) {
	p := carebustest.Open(t)
	if err := projection.Register(t.Context(), p, priorauth.Views); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	submitted := func(id string) event.Event {
		return catalog.RequestSubmittedV1.New("older-service", catalog.RequestSubmitted{PriorAuthID: id, PatientID: "P1"})
	}
	//nolint:staticcheck // that deprecated events are understood is what is tested
	approved := catalog.RequestApprovedV1.New("older-service", catalog.RequestApproved{PriorAuthID: "PA1", PatientID: "P1", Status: "APPROVED"})
	moved := catalog.StatusUpdatedV1.New("older-service", catalog.StatusUpdated{PriorAuthID: "PA1", Status: "EXPIRED", StatusReason: ptr("over")})
	pending := catalog.StatusPendingV1.New("older-service", catalog.StatusPending{PriorAuthID: "PA2", PatientID: "P1", Status: "PENDED", Missing: []catalog.MissingItem{{Field: "daysSupply", Ask: "For how long?"}}})
	answer := catalog.RequestUpdatedV1.New("older-service", catalog.RequestUpdated{PriorAuthID: "PA2", UpdatedFields: json.RawMessage(`{"medication":{"name":"Humira"}}`)})
	first := submitted("PA1").At(time.Date(2023, 3, 1, 10, 0, 0, 0, time.UTC))
	for _, e := range []event.Event{first, approved, moved, submitted("PA2"), pending, answer} {
		var of struct {
			PriorAuthID string `json:"priorAuthId"`
		}
		if err := json.Unmarshal(e.Payload, &of); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Append(t.Context(), priorauth.Requests.Stream(of.PriorAuthID), eventstore.AnyVersion, e); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []event.Event{
		catalog.DeterminationNotRequiredV1.New("older-service", catalog.DeterminationNotRequired{PriorAuthID: "PA3", PrescriptionID: "RX3"}),
		catalog.DecisionMadeV1.New("payer-service", catalog.DecisionMade{PriorAuthID: "PA2", PatientID: "P1", Decision: catalog.DecisionPended}),
	} {
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
	list, err := priorauth.Summaries(t.Context(), p.Store(), "P1")
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list {
		fold, err := priorauth.Requests.Load(t.Context(), p, s.PriorAuthID)
		if err != nil || s.Status != fold.State.Status {
			t.Errorf("%s is %s, want %s (%v)", s.PriorAuthID, s.Status, fold.State.Status, err)
		}
		if s.PriorAuthID == "PA1" && (s.Status != "EXPIRED" || !s.CreatedAt.Equal(first.Time())) || s.PriorAuthID == "PA2" && (s.Status != "SUBMITTED" || s.MedicationName != "Humira") {
			t.Errorf("%+v", s)
		}
	}
	if d, err := priorauth.DetailOf(t.Context(), p.Store(), "PA1"); err != nil || d.StatusReason != "over" || len(d.Events) != 3 || d.Decision != nil {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := priorauth.DetailOf(t.Context(), p.Store(), "PA2"); err != nil || len(d.Events) != 4 || d.Decision == nil || d.Decision.Decision != catalog.DecisionPended {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := priorauth.DetailOf(t.Context(), p.Store(), "PA3"); !errors.Is(err, priorauth.ErrNoRequest) {
		t.Errorf("a request that was not needed: %+v, %v", d, err)
	}
	before := encodedDetails(t, p, "PA1", "PA2")
	if err := projection.Rebuild(t.Context(), p, priorauth.Views, bus.Act{Reason: "test"}, nil); err != nil {
		t.Fatal(err)
	}
	if after := encodedDetails(t, p, "PA1", "PA2"); after != before {
		t.Errorf("after a rebuild %s\nbefore %s", after, before)
	}
	if again, err := priorauth.Summaries(t.Context(), p.Store(), "P1"); err != nil || !slices.Equal(again, list) {
		t.Errorf("after a rebuild %+v, %v\nbefore %+v", again, err, list)
	}
}

func encodedDetails(t *testing.T, p *carebus.Platform, ids ...string) (out string) {
	t.Helper()
	for _, id := range ids {
		d, err := priorauth.DetailOf(t.Context(), p.Store(), id)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		out += string(text)
	}
	return out
}
