package care_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	catalog "github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/services/care"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run joins the service to a new platform and runs it until stop.
func run(dir string) (p *carebus.Platform, stop func()) {
	p, err := carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	if err := care.Join(context.Background(), p, care.Options{}); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			panic(err)
		}
		_ = p.Close()
	}
}

func settled(p *carebus.Platform) {
	for tick := p.Store().Tick(); ; {
		g, err := p.Bus().Group(context.Background(), care.Group)
		if err == nil && g.Lag == 0 {
			return
		}
		if tick, err = p.Store().Wait(context.Background(), tick); err != nil {
			panic(err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func assign(who string, due time.Time) care.AssignTask {
	return care.AssignTask{TaskAssigned: catalog.TaskAssigned{PatientID: ptr("P1"), Title: ptr("Call"), Assignee: catalog.Party{ID: &who}, DueAt: due}}
}

func TestTasks(t *testing.T) {
	p, stop := run(t.TempDir())
	defer stop()
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	must := func(got any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(care.Assign(t.Context(), p, "T1", assign("ann", later)))
	must(care.Assign(t.Context(), p, "T2", assign("ann", soon)))
	must(care.Assign(t.Context(), p, "T3", assign("ann", time.Time{})))
	must(care.Assign(t.Context(), p, "T4", assign("bob", soon)))
	must(care.Complete(t.Context(), p, "T4", care.CompleteTask{}))
	settled(p)
	list := func(who string) string {
		t.Helper()
		tasks, err := care.TasksOf(t.Context(), p.Store(), who, 10)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, x := range tasks {
			out = append(out, fmt.Sprint(x.TaskID, " ", x.Overdue))
		}
		return fmt.Sprint(out)
	}
	if got := list("ann"); got != "[T2 false T1 false T3 false]" {
		t.Errorf("ann's work: %s", got)
	}
	if got := list("bob"); got != "[]" {
		t.Errorf("bob's work: %s", got)
	}
	again, err := care.Assign(t.Context(), p, "T2", assign("bob", soon))
	if err != nil || again.State.Overdue || *again.State.PreviousAssignee.ID != "ann" || *again.State.Title != "Call" {
		t.Errorf("assigned to somebody else: %+v, %v", again, err)
	}
	same, err := care.Assign(t.Context(), p, "T2", assign("bob", soon))
	if err != nil || same.Version != again.Version {
		t.Errorf("assigned to the same again: %+v, %v", same, err)
	}
	settled(p)
	if got := list("bob"); got != "[T2 false]" {
		t.Errorf("bob's work: %s", got)
	}
	must(care.Complete(t.Context(), p, "T2", care.CompleteTask{TaskCompleted: catalog.TaskCompleted{Outcome: ptr("done")}}))
	done, err := care.Complete(t.Context(), p, "T2", care.CompleteTask{})
	if err != nil || *done.State.Completed.Outcome != "done" || *done.State.Completed.PatientID != "P1" {
		t.Errorf("completed twice: %+v, %v", done, err)
	}
	var re *care.RefusedError
	if _, err := care.Assign(t.Context(), p, "T2", assign("cy", soon)); !errors.As(err, &re) || re.Rule != "completed" {
		t.Errorf("a completed task assigned: %v", err)
	}
	if _, err := care.Assign(t.Context(), p, "T9", care.AssignTask{}); !errors.As(err, &re) || re.Rule != "value" {
		t.Errorf("assigned to nobody: %v", err)
	}
	if _, err := care.Complete(t.Context(), p, "T9", care.CompleteTask{}); !errors.As(err, &re) || re.Rule != "exists" {
		t.Errorf("completed without being there: %v", err)
	}
}

// TestDenialMakesATask: one task for a denial, however often it is handled.
func TestDenialMakesATask(t *testing.T) {
	p, stop := run(t.TempDir())
	defer stop()
	denied := priorauth.StatusDeniedV1.New("priorauth-service", priorauth.StatusDenied{PriorAuthID: "PA1", PatientID: "P1", Status: "DENIED"})
	if _, err := p.Publish(t.Context(), denied); err != nil {
		t.Fatal(err)
	}
	settled(p)
	if _, err := care.Complete(t.Context(), p, "TASK-PA1", care.CompleteTask{}); err != nil {
		t.Fatal(err)
	}
	if err := p.Bus().Replay(t.Context(), care.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	settled(p)
	task, err := care.Tasks.Load(t.Context(), p, "TASK-PA1")
	if err != nil || task.Version != 2 || task.State.Completed == nil || *task.State.PriorAuthID != "PA1" {
		t.Errorf("%+v, %v", task, err)
	}
	if open, err := care.TasksOf(t.Context(), p.Store(), "care-coordinator", 10); err != nil || len(open) != 0 {
		t.Errorf("%+v, %v", open, err)
	}
}

// TestDeadlineMakesTasks: one for the escalation, one for the deadline that is missed, none for a reminder; a replay and a
// second event make none.
func TestDeadlineMakesTasks(t *testing.T) {
	p, stop := run(t.TempDir())
	defer stop()
	deadline := time.Now().Add(8 * time.Hour).UTC().Truncate(time.Millisecond)
	near := func(stage priorauth.DeadlineApproachingStage) event.Event {
		return priorauth.DeadlineApproachingV1.New("payer-service", priorauth.DeadlineApproaching{PriorAuthID: "PA1", PatientID: ptr("P1"), Stage: stage, Deadline: deadline})
	}
	publish := func(events ...event.Event) {
		t.Helper()
		if _, err := p.PublishBatch(t.Context(), events); err != nil {
			t.Fatal(err)
		}
		settled(p)
		settled(p)
	}
	work := func() (out []string) {
		t.Helper()
		tasks, err := care.TasksOf(t.Context(), p.Store(), "care-coordinator", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range tasks {
			out = append(out, x.TaskID)
		}
		return out
	}
	publish(near(priorauth.DeadlineApproachingStageReminder))
	if got := work(); len(got) != 0 {
		t.Errorf("a reminder made %v", got)
	}
	publish(near(priorauth.DeadlineApproachingStageEscalation), near(priorauth.DeadlineApproachingStageEscalation))
	task, err := care.Tasks.Load(t.Context(), p, "TASK-PA1-DEADLINE")
	if err != nil || task.Version != 1 || task.State.Priority != catalog.TaskPriorityUrgent || !task.State.DueAt.Equal(deadline) || *task.State.PriorAuthID != "PA1" {
		t.Errorf("%+v, %v", task, err)
	}
	missed := priorauth.DeadlineMissedV1.New("payer-service", priorauth.DeadlineMissed{PriorAuthID: "PA1", PatientID: ptr("P1"), Deadline: deadline})
	publish(missed, missed)
	if err := p.Bus().Replay(t.Context(), care.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	settled(p)
	if got := fmt.Sprint(work()); got != "[TASK-PA1-DEADLINE TASK-PA1-MISSED]" {
		t.Errorf("tasks: %s", got)
	}
	if types, err := p.Store().Types(t.Context()); err != nil || types[catalog.TaskAssignedV1.Type()] != 2 {
		t.Errorf("%v, %v", types, err)
	}
}

func TestTeamPlanAndTalk(t *testing.T) {
	p, stop := run(t.TempDir())
	defer stop()
	smith, jones := catalog.TeamMember{ProviderID: ptr("PROV1"), Role: ptr("physician")}, catalog.TeamMember{Name: ptr("Jones"), Role: ptr("nurse")}
	update := func(c care.ChangeTeam) care.Team {
		t.Helper()
		got, err := care.UpdateTeam(t.Context(), p, "P1", c)
		if err != nil {
			t.Fatal(err)
		}
		return got.State
	}
	update(care.ChangeTeam{Add: []catalog.TeamMember{smith, jones}})
	if team := update(care.ChangeTeam{Add: []catalog.TeamMember{smith}, Remove: []catalog.TeamMember{{ProviderID: ptr("PROV9")}}}); team.Version != 1 || len(team.Members) != 2 {
		t.Errorf("nothing new: %+v", team)
	}
	smith.Role = ptr("cardiologist")
	if team := update(care.ChangeTeam{Add: []catalog.TeamMember{smith}, Remove: []catalog.TeamMember{{Name: ptr("Jones")}}, Reason: "handover"}); len(team.Members) != 1 || *team.Members[0].Role != "cardiologist" {
		t.Errorf("%+v", team)
	}
	var re *care.RefusedError
	if _, err := care.UpdateTeam(t.Context(), p, "P1", care.ChangeTeam{Add: []catalog.TeamMember{{}}}); !errors.As(err, &re) || re.Rule != "value" {
		t.Errorf("a member without a name: %v", err)
	}
	plan := catalog.PlanCreated{PatientID: "P1", Title: ptr("Diabetes Management Plan")}
	made, err := care.CreatePlan(t.Context(), p, "CP1", plan)
	if err != nil || made.State.CarePlanID != "CP1" || made.State.CreatedDate == nil {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := care.CreatePlan(t.Context(), p, "CP1", plan); !errors.As(err, &re) || re.Rule != "exists" {
		t.Errorf("made twice: %v", err)
	}
	if _, err := care.CreatePlan(t.Context(), p, "CP2", catalog.PlanCreated{}); !errors.As(err, &re) || re.Rule != "value" {
		t.Errorf("a plan for nobody: %v", err)
	}
	r, err := care.Communicate(t.Context(), p, catalog.CommunicationSent{PatientID: "P1", Subject: ptr("Result"), Message: ptr("Please call")})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := p.Store().Get(t.Context(), r.EventID); err != nil || e.Type != "care.communication.sent" || e.PartitionKey != "P1" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := care.Communicate(t.Context(), p, catalog.CommunicationSent{}); !errors.As(err, &re) || re.Rule != "value" {
		t.Errorf("about nobody: %v", err)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p, stop := run(dir)
	defer stop()
	ctx := context.Background()
	if _, err := care.Assign(ctx, p, "T1", assign("PROV789", time.Date(2023, 3, 1, 9, 0, 0, 0, time.UTC))); err != nil {
		panic(err)
	}
	for tick := p.Store().Tick(); ; { // the service's timer is on its way
		task, err := care.Tasks.Load(ctx, p, "T1")
		if err != nil {
			panic(err)
		}
		if task.State.Overdue {
			fmt.Println("overdue since", task.State.DueAt.Format(time.DateOnly))
			break
		}
		if tick, err = p.Store().Wait(ctx, tick); err != nil {
			panic(err)
		}
	}
	settled(p)
	// Output: overdue since 2023-03-01
}
