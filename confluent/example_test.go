package confluent_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/confluent"
)

// A client of Kafka's world registers a schema and writes with it.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	h, err := confluent.New(p, nil)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()

	client, err := sr.NewClient(sr.URLs(server.URL))
	if err != nil {
		log.Fatal(err)
	}
	const doc = `{"type":"object","x-entity-id":"/ward","properties":{"ward":{"type":"string"},"beds":{"type":"integer"}},"required":["ward"]}`
	registered, err := client.CreateSchema(ctx, "ward.beds.counted", sr.Schema{Type: sr.TypeJSON, Schema: doc})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("version", registered.Version, "is", registered.SchemaMetadata.Properties["version"])

	framed := confluent.AppendWire(nil, registered.ID, []byte(`{"ward":"4B","beds":12}`))
	id, payload, err := confluent.SplitWire(framed)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id == registered.ID, string(payload))

	// Output:
	// version 1 is 1.0.0
	// true {"ward":"4B","beds":12}
}
