package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/carebus/carebus/auth"
)

// TestRegistryBehindTheDoor: the client of franz-go registers through the gateway, as far as its token is granted to.
func TestRegistryBehindTheDoor(t *testing.T) {
	token, hash := auth.NewToken()
	reader, readerHash := auth.NewToken()
	door, err := auth.Parse(fmt.Appendf(nil, `
principals:
  - {name: lab, tokens: [%q], register: ["lab.**"]}
  - {name: reader, tokens: [%q], read: ["lab.**"]}
`, hash, readerHash))
	if err != nil {
		t.Fatal(err)
	}
	_, p, s := newGateway(t, &Options{Door: door})
	client := func(token string) *sr.Client {
		c, err := sr.NewClient(sr.URLs(s.URL+"/registry"), sr.BearerToken(token), sr.HTTPClient(client))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	doc := sr.Schema{Type: sr.TypeJSON, Schema: `{"type":"object","x-entity-id":"/id","required":["id"],"properties":{"id":{"type":"string"}}}`}
	made, err := client(token).CreateSchema(t.Context(), "lab.result.received", doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Registry().Get("lab.result.received", "1.0.0"); err != nil {
		t.Errorf("what was registered through the gateway: %v", err)
	}
	if got, err := client(reader).SchemaByID(t.Context(), made.ID); err != nil || got.Schema != doc.Schema {
		t.Errorf("%+v %v", got, err)
	}
	for who, c := range map[string]*sr.Client{"a reader": client(reader), "another's subject": client(token), "nobody": client("nobody")} {
		if _, err := c.CreateSchema(t.Context(), "imaging.study.acquired", doc); err == nil {
			t.Errorf("%s has registered", who)
		}
	}
}

// TestRegistryClients: the clients of KafkaJS and of confluent-kafka for Python, unmodified, against the registry that the
// gateway serves.
func TestRegistryClients(t *testing.T) {
	dir := os.Getenv("CAREBUS_CLIENTS")
	if dir == "" {
		t.Skip("run scripts/clients: it installs the clients and says where they are in CAREBUS_CLIENTS")
	}
	for name, command := range map[string][]string{
		"KafkaJS": {"node", filepath.Join(dir, "kafkajs", "run.mjs")},
		"Python":  {filepath.Join(dir, "python", "venv", "bin", "python"), filepath.Join(dir, "python", "run.py")},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, s := newGateway(t, nil)
			cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
			cmd.Env = append(os.Environ(), "SCHEMA_REGISTRY_URL="+s.URL+"/registry")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
