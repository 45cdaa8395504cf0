package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/gateway"
)

// A gateway is an http.Handler over a platform.
func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	g, err := gateway.New(ctx, p, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	server := httptest.NewServer(g)
	defer server.Close()

	response, err := http.Post(server.URL+"/v1/events", "application/json", strings.NewReader(`{
	  "metadata": {"eventId": "e-1", "eventType": "patient.enrolled", "eventSource": "patient-service",
	               "correlationId": "c-1", "timestamp": 1763900000000, "version": "1.0.0"},
	  "payload": {"patientId": "P1", "program": {"name": "Adherence"}}}`))
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(response.Status, strings.HasPrefix(string(answer), `{"published":1,"duplicates":0,"refused":0`))
	// Output: 201 Created true
}
