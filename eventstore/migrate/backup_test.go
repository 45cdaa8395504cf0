package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/storetest"
)

// underLoad publishes while the groups work, calls backup in the middle of it, and lets all end. Both stores are then held
// against each other: the copy has the beginning of each partition.
func underLoad(t *testing.T, c *clinic, backup func()) {
	t.Helper()
	c.publish(100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.cancel = cancel
	c.left.Store(-1)
	done := c.run(ctx)
	var wg sync.WaitGroup
	c.publish(100)
	wg.Go(backup)
	c.publish(200)
	wg.Wait()
	if err := c.p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// restored is the clinic of a copy, which restore brings into its place and names: it handles what the copy says was not handled, and
// everything of it ends up handled once. What came after the moment of the copy is not there. It returns how many events are.
func restored(t *testing.T, c *clinic, restore func() (name string)) (events int) {
	t.Helper()
	all := c.histories()
	c.close()
	c.open(restore())
	defer c.close()
	sent := map[string]int{}
	for key, list := range c.histories() {
		patient, ok := strings.CutPrefix(key, "key ")
		if _, is := c.sent[patient]; !ok || !is {
			continue
		}
		sent[patient] = len(list)
		events += len(list)
		for i, e := range list {
			if all[key][i] != e {
				t.Errorf("%s, %d: %s in the copy, %s in the store", key, i, e, all[key][i])
			}
		}
	}
	handled := 0
	for _, n := range c.times() {
		handled += n
	}
	t.Logf("the copy has %d events, %d of them handled", events, handled)
	if events < 200 || events > 400 {
		t.Errorf("the copy has %d of 400 events", events)
	}
	if r, err := c.p.Store().Verify(t.Context(), nil); err != nil || r.FaultCount > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// Each patient's next visit is the one behind what the copy has: handlers would refuse a gap.
	clear(c.sent)
	maps.Copy(c.sent, sent)
	c.publish(50)
	c.drain()
	c.all("in the copy", 1)
	letters, err := c.p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10)
	if err != nil || len(letters) > 0 {
		t.Errorf("%v, %v", letters, err)
	}
	return events
}

// TestBackup: a copy of a file that is written to is a whole store of one moment, in which the groups go on.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	path, to := filepath.Join(dir, "care.db"), filepath.Join(dir, "backup", "copy.db")
	c := openClinic(t, "sqlite:"+path, 5)
	c.broken.Store(false)
	underLoad(t, c, func() {
		r, err := migrate.Backup(t.Context(), path, to, nil)
		if err != nil || r.Events < 100 || r.Bytes == 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; only its owner may read it", info, err)
	}
	files, err := filepath.Glob(to + "?*")
	if err != nil || len(files) > 0 {
		t.Errorf("left over: %v, %v", files, err)
	}
	if _, err := migrate.Backup(t.Context(), path, to, nil); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("over an older copy: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := filepath.Join(dir, "other.db")
	if _, err := migrate.Backup(ctx, path, other, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("broken off: %v", err)
	}
	if files, err := filepath.Glob(other + "*"); err != nil || len(files) > 0 {
		t.Errorf("broken off, it left %v, %v", files, err)
	}
	restored(t, c, func() string { return "sqlite:" + to })
}

// TestDump: the same by pg_dump and pg_restore, into another database.
func TestDump(t *testing.T) {
	address := storetest.Postgres(t)
	for _, program := range []string{"pg_dump", "pg_restore"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", program, err, out)
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	schema := u.Query().Get("search_path")
	plain := *u // libpq's programs take no such parameter in an address
	plain.RawQuery = "sslmode=disable"
	file := filepath.Join(t.TempDir(), "care.dump")
	c := openClinic(t, address, 6)
	c.broken.Store(false)
	underLoad(t, c, func() { run("pg_dump", "--format=custom", "--schema="+schema, "--file="+file, plain.String()) })

	database := schema + "_copy"
	server, err := pgx.Connect(t.Context(), plain.String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close(context.Background())
	if _, err := server.Exec(t.Context(), fmt.Sprintf(`CREATE DATABASE %s`, database)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := server.Exec(context.Background(), fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, database)); err != nil {
			t.Error(err)
		}
	}()
	plain.Path = "/" + database
	u.Path = "/" + database
	restored(t, c, func() string {
		run("pg_restore", "--exit-on-error", "--dbname="+plain.String(), file)
		return u.String()
	})
}

// TestPointInTime: a server loses its data. A base backup and the archived WAL bring back all that was acknowledged up to a
// moment, and nothing of what came after it.
func TestPointInTime(t *testing.T) {
	server := storetest.NewCluster(t)
	c := openClinic(t, server.Address, 7)
	c.broken.Store(false)
	underLoad(t, c, func() { server.Backup(t) })
	ask := func(text string, into any) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), server.Address)
		if err == nil {
			defer conn.Close(context.Background())
			err = conn.QueryRow(t.Context(), text).Scan(into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var moment time.Time
	ask(`SELECT clock_timestamp()`, &moment)
	c.publish(200)
	var segment string
	ask(`SELECT pg_walfile_name(pg_switch_wal())`, &segment)
	for archived := false; !archived; {
		ask(`SELECT COALESCE(last_archived_wal, '') >= '`+segment+`' FROM pg_stat_archiver`, &archived)
	}
	events := restored(t, c, func() string {
		server.Recover(t, moment)
		return server.Address
	})
	if events != 400 {
		t.Errorf("%d events were restored; 400 were acknowledged before the moment, and 200 after it", events)
	}
}
