package priorauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/carebustest"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/priorauth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(dir string) *carebus.Platform {
	p, err := carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	return p
}

func ptr[T any](v T) *T { return &v }

var (
	humira  = catalog.Medication{Name: "Humira 40mg/0.8mL Pen", NDC: ptr("12345-6789-10"), Quantity: ptr(2.0)}
	create  = priorauth.Create{RequestCreated: catalog.RequestCreated{PatientID: "P1", PrescriptionID: "RX1", Medication: humira}}
	submit  = priorauth.Submit{RequestSubmitted: catalog.RequestSubmitted{PatientID: "P1", PrescriptionID: ptr("RX1"), Medication: &humira, Urgency: catalog.UrgencyStandard}}
	update  = priorauth.Update{Fields: json.RawMessage(`{"urgency":"expedited","medication":{"quantity":1}}`), Reason: "payer asked"}
	pend    = priorauth.RequestInformation{StatusPending: catalog.StatusPending{Missing: []catalog.MissingItem{{Field: "daysSupply", Ask: "For how many days?"}}}}
	approve = priorauth.Approve{StatusApproved: catalog.StatusApproved{AuthNumber: ptr("AUTH1"), ApprovedQuantity: ptr(2.0)}}
	deny    = priorauth.Deny{StatusDenied: catalog.StatusDenied{Reasons: []catalog.Reason{{Code: "STEP-THERAPY", Text: ptr("Try a generic first")}}, Appeal: &catalog.Appeal{Deadline: time.Now().Add(time.Hour)}}}
	appeal  = priorauth.Appeal{AppealSubmitted: catalog.AppealSubmitted{Argument: ptr("tried")}}
	cancel  = priorauth.Cancel{Reason: "not needed any more"}
	expire  = priorauth.Expire{Reason: "the period is over"}
)

var commands = map[string]priorauth.Command{
	"create": create, "submit": submit, "update": update, "request-information": pend, "approve": approve, "deny": deny, "appeal": appeal, "cancel": cancel, "expire": expire,
}

// TestMoves tries every command from every status: what the table allows leads where it says, and everything else is
// refused, naming the status, with nothing stored.
func TestMoves(t *testing.T) {
	p := carebustest.Open(t)
	ways := map[priorauth.Status][]priorauth.Command{ // how to get there
		priorauth.None: {}, priorauth.Draft: {create}, priorauth.Submitted: {submit}, priorauth.Pended: {submit, pend}, priorauth.Approved: {submit, approve},
		priorauth.Denied: {submit, deny}, priorauth.Appealed: {submit, deny, appeal}, priorauth.Cancelled: {submit, cancel}, priorauth.Expired: {submit, approve, expire},
	}
	allowed := map[priorauth.Status]map[string]priorauth.Status{
		priorauth.None:      {"create": priorauth.Draft, "submit": priorauth.Submitted},
		priorauth.Draft:     {"submit": priorauth.Submitted, "update": priorauth.Draft, "cancel": priorauth.Cancelled},
		priorauth.Submitted: {"update": priorauth.Submitted, "request-information": priorauth.Pended, "approve": priorauth.Approved, "deny": priorauth.Denied, "cancel": priorauth.Cancelled},
		priorauth.Pended:    {"update": priorauth.Submitted, "approve": priorauth.Approved, "deny": priorauth.Denied, "cancel": priorauth.Cancelled, "expire": priorauth.Expired},
		priorauth.Approved:  {"expire": priorauth.Expired},
		priorauth.Denied:    {"appeal": priorauth.Appealed},
		priorauth.Appealed:  {"request-information": priorauth.Pended, "approve": priorauth.Approved, "deny": priorauth.Denied, "cancel": priorauth.Cancelled},
		priorauth.Cancelled: {},
		priorauth.Expired:   {},
	}
	for from, way := range ways {
		for name, c := range commands {
			id := fmt.Sprintf("PA-%s-%s", from, name)
			if from == priorauth.None {
				id = "PA-none-" + name
			}
			var before int64
			for _, step := range way {
				got, err := priorauth.Do(t.Context(), p, id, step)
				if err != nil {
					t.Fatalf("on the way to %s: %v", from, err)
				}
				before = got.Version
			}
			got, err := priorauth.Do(t.Context(), p, id, c)
			to, ok := allowed[from][name]
			var re *priorauth.RefusedError
			switch {
			case ok && (err != nil || got.State.Status != to || got.Version == before):
				t.Errorf("%s from %q: %q, %v; want %q", name, from, got.State.Status, err, to)
			case !ok && (!errors.As(err, &re) || re.Rule != "status" || re.Status != from || re.Command != name || from != "" && !strings.Contains(err.Error(), string(from))):
				t.Errorf("%s from %q: %v; want it refused, naming the status", name, from, err)
			}
			if v, err := p.Store().StreamVersion(t.Context(), "priorauth.request/"+id); err != nil || !ok && v != before {
				t.Errorf("%s from %q has stored something: version %d, %v", name, from, v, err)
			}
		}
	}
}

// TestLife follows one request with its content: drafted, submitted, pended, answered, denied, appealed, approved.
func TestLife(t *testing.T) {
	p := carebustest.Open(t)
	do := func(c priorauth.Command) priorauth.Request {
		t.Helper()
		got, err := priorauth.Do(t.Context(), p, "PA1", c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		return got.State
	}
	do(create)
	r := do(priorauth.Submit{RequestSubmitted: catalog.RequestSubmitted{Urgency: catalog.UrgencyStandard}}) // the rest is in the draft
	if r.PatientID != "P1" || *r.PrescriptionID != "RX1" || r.Medication.Name != humira.Name || r.Urgency != "standard" || r.CreatedAt.IsZero() || r.SubmittedAt.IsZero() {
		t.Errorf("submitted %+v", r)
	}
	if r = do(pend); len(r.Missing) != 1 || r.StatusReason == "" {
		t.Errorf("pended %+v", r)
	}
	if r = do(update); r.Urgency != "expedited" || *r.Medication.Quantity != 1 || r.Medication.Name != humira.Name || len(r.Missing) != 0 || *humira.Quantity != 2 {
		t.Errorf("updated %+v; want only the members that the update names changed", r)
	}
	if r = do(deny); r.StatusReason != "Try a generic first" || *r.Denial.PrescriptionID != "RX1" || r.Denial.Medication.Name != humira.Name {
		t.Errorf("denied %+v", r)
	}
	if r = do(appeal); len(r.Appeals) != 1 || r.Appeals[0].AppealID != "PA1-1" || *r.Appeals[0].Level != 1 {
		t.Errorf("appealed %+v", r)
	}
	if r = do(approve); r.Status != "APPROVED" || *r.Approval.AuthNumber != "AUTH1" || r.Approval.PatientID != "P1" || r.StatusReason != "" {
		t.Errorf("approved %+v", r)
	}
	records, err := p.Store().Stream(t.Context(), eventstore.StreamQuery{Stream: "priorauth.request/PA1", From: 1, Limit: 20})
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, rec := range records {
		if rec.PartitionKey != "PA1" || rec.Source != priorauth.Source {
			t.Errorf("%s has key %s and source %s", rec.Type, rec.PartitionKey, rec.Source)
		}
		types = append(types, strings.TrimPrefix(rec.Type, "priorauth."))
	}
	if want := "[request.created request.submitted status.pending request.updated status.denied appeal.submitted status.updated status.approved]"; fmt.Sprint(types) != want {
		t.Errorf("%v\nwant %v", types, want)
	}
	if r.Version != 8 || r.LastUpdated != records[7].Timestamp {
		t.Errorf("version %d, last updated %d", r.Version, r.LastUpdated)
	}
}

func TestRefusedContent(t *testing.T) {
	p := carebustest.Open(t)
	refused := func(id string, c priorauth.Command, rule string) {
		t.Helper()
		_, err := priorauth.Do(t.Context(), p, id, c)
		var re *priorauth.RefusedError
		if !errors.As(err, &re) || re.Rule != rule || re.Remedy == "" {
			t.Errorf("%T: %v, want it refused by the rule %q", c, err, rule)
		}
	}
	refused("1", priorauth.Create{}, "value")
	refused("1", priorauth.Submit{}, "value")
	if _, err := priorauth.Do(t.Context(), p, "1", create); err != nil {
		t.Fatal(err)
	}
	refused("1", priorauth.Submit{RequestSubmitted: catalog.RequestSubmitted{PatientID: "P2"}}, "value")
	for _, fields := range []string{`[]`, `null`, `nonsense`, `{"patientId":"P2"}`, `{"status":"APPROVED"}`, `{"urgency":7}`, `{"priorAuthId":"x"}`} {
		refused("1", priorauth.Update{Fields: json.RawMessage(fields)}, "value")
	}
	if _, err := priorauth.Do(t.Context(), p, "1", submit); err != nil {
		t.Fatal(err)
	}
	refused("1", priorauth.RequestInformation{}, "value")
	refused("1", priorauth.Deny{}, "value")
	now := time.Now()
	refused("1", priorauth.Approve{StatusApproved: catalog.StatusApproved{EffectivePeriod: &catalog.Period{Start: now, End: now.Add(-time.Hour)}}}, "value")
	late := deny
	late.Appeal = &catalog.Appeal{Deadline: now.Add(-time.Hour)}
	if _, err := priorauth.Do(t.Context(), p, "1", late); err != nil {
		t.Fatal(err)
	}
	refused("1", appeal, "deadline")
}

// TestRandomLives: whatever is tried, the status moves as the table says, and the state is the fold of the events.
func TestRandomLives(t *testing.T) {
	p := carebustest.Open(t)
	names := []string{"create", "submit", "update", "request-information", "approve", "deny", "appeal", "cancel", "expire"}
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		id := fmt.Sprint("PA", n)
		var last aggregate.Loaded[priorauth.Request]
		for range rapid.IntRange(1, 10).Draw(t, "tries") {
			name := rapid.SampledFrom(names).Draw(t, "command")
			got, err := priorauth.Do(context.Background(), p, id, commands[name])
			var re *priorauth.RefusedError
			if errors.As(err, &re) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			last = got
		}
		if last.Version == 0 {
			return
		}
		for step, err := range priorauth.Requests.History(context.Background(), p, id) {
			if err != nil {
				t.Fatal(err)
			}
			if step.Record.StreamVersion == last.Version {
				a, _ := json.Marshal(step.State)
				b, _ := json.Marshal(last.State)
				if string(a) != string(b) {
					t.Fatalf("fold  %s\nstate %s", a, b)
				}
			}
		}
	})
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p := openAt(dir)
	defer p.Close()
	ctx := context.Background()

	for _, c := range []priorauth.Command{submit, pend, update, approve, deny} {
		now, err := priorauth.Do(ctx, p, "PA98765432", c)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(now.State.Status)
	}
	// Output:
	// SUBMITTED
	// PENDED
	// SUBMITTED
	// APPROVED
	// priorauth: deny refused: the request is APPROVED [status]; it is possible when it is SUBMITTED or is PENDED or is APPEALED
}
