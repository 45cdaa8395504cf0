package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/storetest"
)

// sql carries out a statement behind the store's back.
func sql(t *testing.T, address, statement string, args ...any) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	if _, err := c.Exec(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsFound: whatever is changed behind the store's back, verify names the place.
func TestDamageIsFound(t *testing.T) {
	for name, c := range map[string]struct{ statement, rule string }{
		"payload":        {`UPDATE carebus_events SET payload = '\x7b7d' WHERE id = 'e3'`, "hash-chain"},
		"time":           {`UPDATE carebus_events SET recorded = recorded + 1 WHERE id = 'e3'`, "hash-chain"},
		"a missing row":  {`DELETE FROM carebus_events WHERE id = 'e3'`, "offset-gap"},
		"stream version": {`UPDATE carebus_events SET version = 77 WHERE id = 'e3'`, "stream-version"},
		"a name":         {`DELETE FROM carebus_types`, "hash-chain"},
		"the hash":       {`UPDATE carebus_events SET hash = '\x00' WHERE id = 'e3'`, "hash-chain"},
	} {
		t.Run(name, func(t *testing.T) {
			address := storetest.Postgres(t)
			s := open(t, address, &postgres.Options{Partitions: 1})
			for i := range 6 {
				if _, err := s.Append(t.Context(), "s", int64(i), made(fmt.Sprint("e", i), "k")); err != nil {
					t.Fatal(err)
				}
			}
			sql(t, address, c.statement)
			r, err := s.Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Faults {
				if f.Rule == c.rule {
					return
				}
			}
			t.Errorf("no fault %q among %+v", c.rule, r.Faults)
		})
	}
}

// TestErrorsHoldNoValues: what the server says of values stays with the server.
func TestErrorsHoldNoValues(t *testing.T) {
	s := open(t, storetest.Postgres(t), nil)
	const secret = "John Doe 1970-01-01"
	if err := s.Migrate(t.Context(), "people", `CREATE TABLE people (name TEXT PRIMARY KEY, born BIGINT NOT NULL CHECK (born > 0))`); err != nil {
		t.Fatal(err)
	}
	insert := func(tx *eventstore.Tx, name string, born any) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO people (name, born) VALUES ($1, $2)`, name, born)
		return err
	}
	for what, fn := range map[string]func(tx *eventstore.Tx) error{
		"a duplicate": func(tx *eventstore.Tx) error { return errors.Join(insert(tx, secret, 1), insert(tx, secret, 1)) },
		"a check":     func(tx *eventstore.Tx) error { return insert(tx, secret, -1) },
		"no value":    func(tx *eventstore.Tx) error { return insert(tx, secret, nil) },
		"a cast": func(tx *eventstore.Tx) error {
			var n int64
			return tx.QueryRowContext(t.Context(), `SELECT CAST($1 AS TEXT)::BIGINT`, secret).Scan(&n)
		},
		"a cast in a later row": func(tx *eventstore.Tx) error {
			rows, err := tx.QueryContext(t.Context(), `SELECT CAST(v AS BIGINT) FROM (VALUES ('1'), (CAST($1 AS TEXT))) AS t (v)`, secret)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
			}
			return rows.Err()
		},
	} {
		err := s.Update(t.Context(), fn)
		var pgError interface{ SQLState() string }
		switch {
		case err == nil:
			t.Errorf("%s: no error", what)
		case strings.Contains(fmt.Sprintf("%v %+v", err, err), "Doe"):
			t.Errorf("%s: the error tells the value: %v", what, err)
		case !errors.As(err, &pgError) || pgError.SQLState() == "":
			t.Errorf("%s: the error does not tell the server's code: %v", what, err)
		}
	}
}

// TestPasswordIsNotTold: neither when the address is wrong, nor when the server refuses it or is not there.
func TestPasswordIsNotTold(t *testing.T) {
	addresses := []string{"postgres://care:sesame@127.0.0.1:1/care?connect_timeout=1", "postgres://care:sesame@[bad/care", "postgres://127.0.0.1:1/care?user=care&password=sesame&connect_timeout=1"}
	if server := os.Getenv("CAREBUS_TEST_POSTGRES"); server != "" {
		u, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("carebus", "sesame")
		addresses = append(addresses, u.String())
	}
	for _, a := range addresses {
		_, err := postgres.Open(t.Context(), a, nil)
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("opening it: %v", err)
		}
	}
}

// TestASwallowedErrorFailsTheUnit: the server carries nothing out after a failed statement; the unit fails, and only it.
func TestASwallowedErrorFailsTheUnit(t *testing.T) {
	d, err := postgres.Open(t.Context(), storetest.Postgres(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	swallow := func(tx driver.Tx) error {
		_, _ = tx.ExecContext(context.Background(), `INSERT INTO no_such_table (k) VALUES ($1)`, "x")
		_, err := tx.Append(context.Background(), driver.Append{Expected: driver.AnyVersion, Events: []event.Event{made("inside", "k")}})
		return err
	}
	append1 := func(id string) *driver.Unit {
		return &driver.Unit{Append: driver.Append{Expected: driver.AnyVersion, Events: []event.Event{made(id, "k")}}, Ctx: t.Context()}
	}
	before, bad, after := append1("before"), &driver.Unit{Run: swallow, Ctx: t.Context()}, append1("after")
	for _, units := range [][]*driver.Unit{{bad}, {before, bad, after}} {
		if _, err := d.Commit(t.Context(), units); err != nil {
			t.Fatal(err)
		}
		if bad.Err == nil || before.Err != nil || after.Err != nil {
			t.Errorf("%v, %v, %v; want an error for the second alone", before.Err, bad.Err, after.Err)
		}
	}
	if heads, err := d.Heads(t.Context()); err != nil || heads[driver.PartitionOf("k", 12)] != 2 {
		t.Errorf("heads %v, %v; want the two good events", heads, err)
	}
}

// TestReadOnly: a store is read without a right to write, and a store that is not there is not made.
func TestReadOnly(t *testing.T) {
	address := storetest.Postgres(t)
	if _, err := postgres.Open(t.Context(), address, &postgres.Options{ReadOnly: true}); !errors.Is(err, driver.ErrNotFound) {
		t.Errorf("reading a store that does not exist: %v; want ErrNotFound", err)
	}
	w := open(t, address, nil)
	r := open(t, address, &postgres.Options{ReadOnly: true})
	tick := r.Tick()
	if _, err := w.Append(t.Context(), "s", eventstore.NoStream, made("1", "k")); err != nil {
		t.Fatal(err)
	}
	for _, err := r.Get(t.Context(), "1"); err != nil; _, err = r.Get(t.Context(), "1") {
		if tick, err = r.Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Append(t.Context(), "", eventstore.AnyVersion, made("2", "k")); !errors.Is(err, eventstore.ErrReadOnly) {
		t.Errorf("appending: %v; want ErrReadOnly", err)
	}
	if err := r.View(t.Context(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(t.Context(), `DELETE FROM carebus_events RETURNING id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
		}
		return rows.Err()
	}); err == nil {
		t.Error("a view deleted an event")
	}
}

// TestLostNotifications: a process whose connections were all cut, and which hears of nothing, still learns of commits.
func TestLostNotifications(t *testing.T) {
	direct := storetest.Postgres(t)
	w := open(t, direct, nil)
	address, p := storetest.Through(t, direct)
	r := open(t, address, &postgres.Options{PollInterval: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	for i := range 5 {
		p.Cut(1, nil)
		receipts, err := w.Append(t.Context(), "", eventstore.AnyVersion, made(fmt.Sprint(i), "k"))
		if err != nil {
			t.Fatal(err)
		}
		<-r.After(receipts[0].Partition, receipts[0].Offset)
	}
	// Commits that nobody tells of: as by a process that ends before it does.
	sql(t, direct, `INSERT INTO carebus_outcomes (token, at) VALUES ('x', 0)`)
	tick := r.Tick()
	sql(t, direct, `SELECT nextval('carebus_commits')`)
	if _, err := r.Wait(t.Context(), tick); err != nil {
		t.Fatal(err)
	}
}

// TestIdleConnectionsEnd: reads do not meet the connections that the server has ended while they rested, as a restart does.
func TestIdleConnectionsEnd(t *testing.T) {
	direct := storetest.Postgres(t)
	name := "ended-" + t.Name()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = q.Encode()
	const n = 4
	s := open(t, u.String(), &postgres.Options{Connections: n, Logger: slog.New(slog.DiscardHandler)})
	if _, err := s.Append(t.Context(), "s", eventstore.AnyVersion, made("1", "k")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var busy, done sync.WaitGroup // n views at once: as many connections
		busy.Add(n)
		for range n {
			done.Go(func() {
				if err := s.View(t.Context(), func(q eventstore.Querier) error {
					busy.Done()
					busy.Wait()
					return q.QueryRowContext(t.Context(), `SELECT 1`).Scan(new(int))
				}); err != nil {
					t.Error(err)
				}
				if _, err := s.StreamVersion(t.Context(), "s"); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		sql(t, direct, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = $1`, name)
	}
}

// TestLostAnswer: the answer of every commit is lost, because the connection is cut right after COMMIT was sent. The
// outcome is found out: an append is acknowledged when it was stored, and is stored once in any case.
func TestLostAnswer(t *testing.T) {
	direct := storetest.Postgres(t)
	address, p := storetest.Through(t, direct)
	s := open(t, address, quick())
	if err := s.Migrate(t.Context(), "n", `CREATE TABLE n (n BIGINT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	acknowledged, updated := 0, 0
	const n = 40
	for i := range n {
		lost := p.LoseAnswer("COMMIT")
		if i%2 == 0 {
			if _, err := s.Append(t.Context(), "s", int64(acknowledged), made(fmt.Sprint("e", i), "k")); err == nil {
				acknowledged++
			} else {
				t.Errorf("append %d: %v", i, err)
			}
		} else if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO n (n) VALUES ($1)`, i)
			return err
		}); err == nil {
			updated++
		} else {
			t.Errorf("update %d: %v", i, err)
		}
		<-lost
	}
	d := open(t, direct, nil)
	var rows int
	if err := d.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM n`).Scan(&rows)
	}); err != nil {
		t.Fatal(err)
	}
	if v, err := d.StreamVersion(t.Context(), "s"); err != nil || v != int64(acknowledged) || acknowledged != n/2 || rows != updated || updated != n/2 {
		t.Errorf("%d appends and %d updates acknowledged of %d each; %d events and %d rows stored (%v)", acknowledged, updated, n/2, v, rows, err)
	}
}

// TestTextComparesByBytes: on every engine, whatever the database's locale.
func TestTextComparesByBytes(t *testing.T) {
	s := open(t, storetest.Postgres(t), nil)
	if err := s.Migrate(t.Context(), "words", `CREATE TABLE words (w TEXT PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		for _, w := range []string{"b", "B", "a", "_", "é", "A"} {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO words (w) VALUES ($1)`, w); err != nil {
				return err
			}
		}
		rows, err := tx.QueryContext(t.Context(), `SELECT w FROM words ORDER BY w`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w string
			if err := rows.Scan(&w); err != nil {
				return err
			}
			got = append(got, w)
		}
		return rows.Err()
	}); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "[A B _ a b é]" {
		t.Errorf("ordered as %v", got)
	}
}

// TestOpenedByManyAtOnce: processes that start together make one store, and its schema.
func TestOpenedByManyAtOnce(t *testing.T) {
	address := storetest.Postgres(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			d, err := postgres.Open(context.Background(), address, &postgres.Options{Connections: 1})
			if err == nil {
				_, err = d.Commit(context.Background(), []*driver.Unit{{Append: driver.Append{Expected: driver.AnyVersion, Events: []event.Event{made(fmt.Sprint(i), "k")}}}})
				err = errors.Join(err, d.Close())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s := open(t, address, nil)
	if r, err := s.Verify(t.Context(), nil); err != nil || r.Events != int64(len(errs)) || r.FaultCount > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestDurableWhateverTheServerSays: a server that acknowledges too early is told of, and set right for what carebus commits.
func TestDurableWhateverTheServerSays(t *testing.T) {
	address := storetest.Postgres(t) + "&synchronous_commit=off"
	var log strings.Builder
	d, err := postgres.Open(t.Context(), address, &postgres.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !strings.Contains(log.String(), "synchronous_commit") {
		t.Errorf("the log says %q; want a warning", log.String())
	}
	var setting string
	u := &driver.Unit{Ctx: t.Context(), Run: func(tx driver.Tx) error {
		return tx.QueryRowContext(context.Background(), `SELECT current_setting('synchronous_commit')`).Scan(&setting)
	}}
	if _, err := d.Commit(t.Context(), []*driver.Unit{u}); err != nil || u.Err != nil || setting != "on" {
		t.Errorf("a transaction has synchronous_commit = %s (%v, %v), want on", setting, err, u.Err)
	}
}

// TestFormats: a schema of something else, and a store of a newer program, are left untouched.
func TestFormats(t *testing.T) {
	address := storetest.Postgres(t)
	open(t, address, nil)
	sql(t, address, `UPDATE carebus_meta SET value = '99' WHERE name = 'format'`)
	if _, err := postgres.Open(t.Context(), address, nil); !errors.Is(err, driver.ErrFormat) {
		t.Errorf("a newer format: %v; want ErrFormat", err)
	}
	sql(t, address, `DROP TABLE carebus_meta`)
	if _, err := postgres.Open(t.Context(), address, nil); !errors.Is(err, driver.ErrFormat) {
		t.Errorf("tables of something else: %v; want ErrFormat", err)
	}
}

// TestWhatTheServerCannotStore: a NUL or bytes that are not UTF-8 are refused alone, and nothing is found by them.
func TestWhatTheServerCannotStore(t *testing.T) {
	d, err := postgres.Open(t.Context(), storetest.Postgres(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, bad := range []string{"nul \x00", "\xff\xfe"} {
		good := &driver.Unit{Append: driver.Append{Expected: driver.AnyVersion, Events: []event.Event{made(fmt.Sprint("good", i), "k")}}}
		stream := &driver.Unit{Append: driver.Append{Stream: bad, Expected: driver.AnyVersion, Events: []event.Event{made("in a bad stream", "k")}}}
		key := &driver.Unit{Append: driver.Append{Expected: driver.AnyVersion, Events: []event.Event{made("with a bad key", bad)}}}
		if _, err := d.Commit(t.Context(), []*driver.Unit{stream, good, key}); err != nil || good.Err != nil || stream.Err == nil || key.Err == nil {
			t.Errorf("%q: %v, %v, %v, %v; want the good unit stored and the others refused", bad, err, good.Err, stream.Err, key.Err)
		}
		_, err1 := d.Get(t.Context(), bad)
		_, err2 := d.Stream(t.Context(), driver.StreamQuery{Stream: bad, From: 1, Limit: 1})
		v, err3 := d.StreamVersion(t.Context(), bad)
		streams, err4 := d.Streams(t.Context(), bad, "", 1)
		flow, err5 := d.Correlation(t.Context(), bad, time.Time{}, 1)
		typed, err6 := d.Type(t.Context(), driver.TypeQuery{Type: bad, Limit: 1})
		b, err7 := d.Partition(t.Context(), driver.PartitionQuery{Partition: driver.PartitionOf("k", 12), Key: bad, Limit: 10})
		if !errors.Is(err1, driver.ErrNotFound) || !errors.Is(err2, driver.ErrNotFound) || errors.Join(err3, err4, err5, err6, err7) != nil ||
			v != 0 || len(streams)+len(flow)+len(typed)+len(b.Records) != 0 || b.Next != int64(i)+1 {
			t.Errorf("%q: %v, %v, %d, %v, %v, %v, %+v, %v", bad, err1, err2, v, streams, flow, typed, b, errors.Join(err3, err4, err5, err6, err7))
		}
	}
}

// TestIndexesAreChecked: where amcheck is installed the server itself compares indexes with their table.
func TestIndexesAreChecked(t *testing.T) {
	address := storetest.Postgres(t)
	s := open(t, address, nil)
	if _, err := s.Append(t.Context(), "s", eventstore.NoStream, made("1", "k")); err != nil {
		t.Fatal(err)
	}
	sql(t, os.Getenv("CAREBUS_TEST_POSTGRES"), `CREATE EXTENSION IF NOT EXISTS amcheck`) // it stays: others may be using it
	faults := func() int64 {
		t.Helper()
		r, err := s.Verify(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Faults {
			if f.Rule != "index" || !strings.Contains(f.Detail, "carebus_events_type") {
				t.Errorf("%+v", f)
			}
		}
		return r.FaultCount
	}
	if n := faults(); n != 0 {
		t.Errorf("%d faults in a store that nobody has damaged", n)
	}
	sql(t, address, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'carebus_events_type'::regclass`)
	if n := faults(); n != 1 {
		t.Errorf("%d faults with one index that is not valid; want 1", n)
	}
}

// TestQueuedMeanwhile: who comes while a process waits for its turn shares the commit.
func TestQueuedMeanwhile(t *testing.T) {
	t.Parallel()
	address := storetest.Postgres(t)
	var stores []*eventstore.Store
	for range 2 {
		d, err := postgres.Open(t.Context(), address, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := eventstore.New(d, nil)
		t.Cleanup(func() { _ = s.Close() })
		stores = append(stores, s)
	}
	other, s := stores[0], stores[1]
	has, lets := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := other.Update(context.Background(), func(*eventstore.Tx) error { close(has); <-lets; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-has
	publish := func(i int) {
		wg.Go(func() {
			if _, err := s.Append(context.Background(), "", eventstore.AnyVersion, made(fmt.Sprint("e", i), fmt.Sprint("k", i%5))); err != nil {
				t.Error(err)
			}
		})
	}
	until := func(what string, so func() bool) {
		t.Helper()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for !so() {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				t.Fatal("waiting for " + what)
			}
		}
	}
	publish(0)
	until("the first to be taken", func() bool { return s.Stats().Queued == 0 })
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	until("the wait for the turn", func() (waits bool) {
		if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 'carebus_meta'::regclass::oid)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
	const more = 50
	for i := range more {
		publish(1 + i)
	}
	until("the others to queue", func() bool { return s.Stats().Queued == more })
	close(lets)
	wg.Wait()
	if st := s.Stats(); st.Commits != 1 || st.Units != 1+more || st.Largest != 1+more {
		t.Errorf("%+v, want one commit", st)
	}
	if r, err := s.Verify(t.Context(), nil); err != nil || len(r.Faults) > 0 || r.Events != 1+more {
		t.Errorf("%+v, %v", r, err)
	}
}
