package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func progress(p migrate.Progress) *migrate.Options { return &migrate.Options{Progress: p} }

type visit struct {
	PatientID string `json:"patientId"`
	N         int    `json:"n"`
}

var visited = event.Define[visit]("clinic.patient.visited", "1.0.0")

var document = schema.Document{Type: "clinic.patient.visited", Version: "1.0.0", Schema: []byte(`{
	"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Visited", "description": "A patient has visited the clinic.", "type": "object",
	"required": ["patientId", "n"], "x-entity-id": "/patientId", "x-subject-id": "/patientId",
	"properties": {"patientId": {"type": "string", "description": "The patient.", "x-phi": true}, "n": {"type": "integer", "description": "Which visit."}}}`)}

// visits counts visits in a read model; a patient whose name begins with "bad" is parked.
func visits(ctx context.Context, p *carebus.Platform) error {
	if err := projection.Register(ctx, p, projection.Define("visits", 1,
		projection.Tables(`CREATE TABLE {visits} (patient_id TEXT PRIMARY KEY, n BIGINT NOT NULL)`, `CREATE INDEX {visits_n} ON {visits} (n)`),
		projection.On(visited, func(_ context.Context, tx projection.Tx, e event.Of[visit]) error {
			_, err := tx.Exec(`INSERT INTO {visits} (patient_id, n) VALUES ($1, $2) ON CONFLICT (patient_id) DO UPDATE SET n = excluded.n`, e.Payload.PatientID, e.Payload.N)
			return err
		}))); err != nil {
		return err
	}
	return p.Handle("letters", bus.On(visited, func(_ context.Context, _ bus.Tx, e event.Of[visit]) error {
		if e.Payload.PatientID == "bad" {
			return errors.New("no address")
		}
		return nil
	}))
}

func open(t *testing.T, name string) *carebus.Platform {
	t.Helper()
	p, err := carebus.Open(context.Background(), name, &carebus.Options{Logger: slog.New(slog.DiscardHandler), Lease: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.RegisterSchema(t.Context(), document); err != nil {
		t.Fatal(err)
	}
	if err := visits(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// work publishes visits number from to to of a few patients, and runs the groups until they have handled them.
func work(t *testing.T, p *carebus.Platform, from, to int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for n := from; n <= to; n++ {
		for _, patient := range []string{"P1", "P2", "P3", "bad"} {
			version, err := p.Store().StreamVersion(t.Context(), "clinic.patient/"+patient)
			if err != nil {
				t.Fatal(err)
			}
			e := visited.New("clinic", visit{PatientID: patient, N: n})
			e.PartitionKey = patient
			if _, err := p.Append(t.Context(), "clinic.patient/"+patient, version, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// look is what a reader of the platform sees.
func look(t *testing.T, p *carebus.Platform) string {
	t.Helper()
	text := ""
	if err := p.Store().View(t.Context(), func(q eventstore.Querier) error {
		for _, query := range []string{`SELECT patient_id, n FROM visits ORDER BY patient_id`, `SELECT grp || '/' || part, next FROM carebus_checkpoints ORDER BY grp, part`,
			`SELECT name, version FROM carebus_components ORDER BY name`, `SELECT id, due_at FROM carebus_timers ORDER BY id`} {
			rows, err := q.QueryContext(t.Context(), query)
			if err != nil {
				return err
			}
			for rows.Next() {
				var a string
				var b int64
				if err := rows.Scan(&a, &b); err != nil {
					return errors.Join(err, rows.Close())
				}
				text += fmt.Sprintln(a, b)
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for r, err := range p.Store().All(t.Context(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintln(r.Partition, r.Offset, r.ID, r.Type, r.Stream, r.StreamVersion, r.RecordedAt.UnixMicro(), string(r.Payload))
	}
	letters, err := p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		text += fmt.Sprintln(l.Group, l.Key, l.Events, l.Error)
	}
	return text
}

// filled is a store in a file with events, histories, a read model, checkpoints, a parked key and a timer.
func filled(t *testing.T) (path, seen string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "care.db")
	p := open(t, "sqlite:"+path)
	work(t, p, 1, 20)
	later := visited.New("clinic", visit{PatientID: "P1", N: 100})
	if err := p.Timers().Set(t.Context(), "reminder", time.Now().Add(time.Hour), later); err != nil {
		t.Fatal(err)
	}
	seen = look(t, p)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return path, seen
}

// TestRun: everything is on the server as it was in the file, and work goes on there.
func TestRun(t *testing.T) {
	address := storetest.Postgres(t)
	path, seen := filled(t)
	stages := map[string]int64{}
	report, err := migrate.Run(t.Context(), "sqlite:"+path, address, progress(func(stage string, done, total int64) {
		if done < stages[stage] || done > total {
			t.Errorf("%s: %d of %d after %d", stage, done, total, stages[stage])
		}
		stages[stage] = done
	}))
	if err != nil {
		t.Fatal(err)
	}
	if stages["events"] != report.Events || stages["verify target"] != report.Events || len(report.Partitions) != 12 || len(report.Tables) < 10 {
		t.Errorf("%+v, %v", report, stages)
	}
	p := open(t, address)
	defer p.Close()
	if got := look(t, p); got != seen {
		t.Errorf("in the file:\n%s\non the server:\n%s", seen, got)
	}
	work(t, p, 21, 25)
	if r, err := p.Store().Verify(t.Context(), nil); err != nil || r.FaultCount > 0 || r.Events != report.Events+20 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := migrate.Run(t.Context(), "sqlite:"+path, address, nil); err == nil {
		t.Error("a store that is in use was taken for a target")
	}
}

// TestInterrupted: a copy that was broken off goes on where it ended; until then nobody opens the target.
func TestInterrupted(t *testing.T) {
	address := storetest.Postgres(t)
	path, seen := filled(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := migrate.Run(ctx, "sqlite:"+path, address, progress(func(stage string, done, _ int64) {
		if stage == "events" && done > 20 {
			cancel(enough)
		}
	}))
	if err == nil {
		t.Fatal("it ended although it was broken off")
	}
	if _, err := carebus.Open(t.Context(), address, nil); !errors.Is(err, eventstore.ErrFormat) {
		t.Errorf("opening an unfinished copy: %v; want ErrFormat", err)
	}
	other, _ := filled(t)
	if _, err := migrate.Run(t.Context(), "sqlite:"+other, address, nil); !errors.Is(err, migrate.ErrDiffers) {
		t.Errorf("going on with another source: %v; want ErrDiffers", err)
	}
	report, err := migrate.Run(t.Context(), "sqlite:"+path, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Resumed == 0 || report.Resumed >= report.Events {
		t.Errorf("%d of %d events were there", report.Resumed, report.Events)
	}
	p := open(t, address)
	defer p.Close()
	if got := look(t, p); got != seen {
		t.Errorf("in the file:\n%s\non the server:\n%s", seen, got)
	}
}

// TestRefusals: a target that holds anything, and a source that is damaged or not there, are refused.
func TestRefusals(t *testing.T) {
	address := storetest.Postgres(t)
	path, _ := filled(t)
	p := open(t, address)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Run(t.Context(), "sqlite:"+path, address, nil); err == nil {
		t.Error("a target with tables was accepted")
	}
	if _, err := migrate.Run(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "none.db"), address, nil); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("a source that does not exist: %v; want ErrNotFound", err)
	}
}
