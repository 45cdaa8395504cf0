package storetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Cluster is a PostgreSQL server of a test's own, which the test may kill.
type Cluster struct {
	Address string
	dir     string
	script  string
	stopped bool
}

// NewCluster starts a server by scripts/postgres, which ends with the test. Without CAREBUS_TEST_POSTGRES, which says that
// PostgreSQL is there, the test is skipped.
func NewCluster(t testing.TB) *Cluster {
	t.Helper()
	server(t)
	c := &Cluster{script: filepath.Join(root(t), "scripts", "postgres")}
	for line := range strings.Lines(c.run(t, "start")) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		value = strings.Trim(value, "'")
		switch name {
		case "CAREBUS_TEST_POSTGRES":
			c.Address = value
		case "CAREBUS_TEST_POSTGRES_DIR":
			c.dir = value
		}
	}
	t.Cleanup(func() { c.Stop(t) })
	return c
}

// Stop ends the server and removes what it has. The end of the test does that too.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	if !c.stopped {
		c.stopped = true
		c.run(t, "stop", c.dir)
	}
}

// Kill ends the server and all its processes by kill -9 and starts it again: what a crash leaves.
func (c *Cluster) Kill(t testing.TB) { t.Helper(); c.run(t, "kill", c.dir) }

// Restart restarts the server in order, which cuts every connection.
func (c *Cluster) Restart(t testing.TB) { t.Helper(); c.run(t, "restart", c.dir) }

// Backup takes a base backup, and has WAL archived from then on.
func (c *Cluster) Backup(t testing.TB) { t.Helper(); c.run(t, "backup", c.dir) }

// Recover loses the server's data, and recovers what backup and archive have of a moment. What came after it must be in the
// archive too.
func (c *Cluster) Recover(t testing.TB, moment time.Time) {
	t.Helper()
	c.run(t, "recover", c.dir, moment.UTC().Format("2006-01-02 15:04:05.000000+00"))
}

func (c *Cluster) run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(c.script, args...) // #nosec G204 -- the project's own script
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/postgres %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// root is the folder of the module that the test belongs to.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the folder of the test")
		}
		dir = filepath.Dir(dir)
	}
}
