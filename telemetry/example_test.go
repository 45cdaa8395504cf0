package telemetry_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/telemetry"
)

// A platform with metrics: what is stored is counted by its type.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t, err := telemetry.New(ctx, &telemetry.Options{Version: "1.4.2"})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = t.Shutdown(ctx) }() // there are no traces to be sent
	p, err := carebus.Open(ctx, filepath.Join(dir, "care.db"), &carebus.Options{Hooks: t.Hooks()})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	t.Watch(p)

	e := patient.EnrolledV1.New("patient-service", patient.Enrolled{PatientID: "P1", Program: patient.EnrolledProgram{Name: "Adherence"}})
	if _, err := p.Publish(ctx, e); err != nil {
		log.Fatal(err)
	}
	answer := httptest.NewRecorder()
	t.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, `carebus_events_stored_total{domain="patient"`) {
			fmt.Print(line)
		}
	}
	// Output: carebus_events_stored_total{domain="patient",type="patient.enrolled"} 1
}
