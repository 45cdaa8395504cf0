package drivertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

// table makes a table of the suite's own, in the SQL that engines share.
func (s *suite) table(d driver.Driver) {
	s.Helper()
	u := transaction(func(tx driver.Tx) error {
		_, err := tx.ExecContext(context.Background(), `CREATE TABLE suite_rows (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`)
		return err
	})
	s.commit(d, u)
	if u.Err != nil {
		s.Fatalf("creating a table: %v", u.Err)
	}
}

const upsert = `INSERT INTO suite_rows (k, n) VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET n = suite_rows.n + excluded.n`

func (s *suite) rows(d driver.Driver) map[string]int64 {
	s.Helper()
	out := map[string]int64{}
	err := d.View(s.Context(), func(q driver.Querier) error {
		rows, err := q.QueryContext(s.Context(), `SELECT k, n FROM suite_rows WHERE n > $1 ORDER BY k`, 0)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			var n int64
			if err := rows.Scan(&k, &n); err != nil {
				return err
			}
			out[k] = n
		}
		return rows.Err()
	})
	if err != nil {
		s.Fatalf("View: %v", err)
	}
	return out
}

func testTransactions(_ *testing.T, s *suite) {
	d := s.open()
	s.table(d)
	boom := errors.New("boom")
	work := func(id string, result error) *driver.Unit {
		return transaction(func(tx driver.Tx) error {
			rs, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: driver.AnyVersion, Events: []event.Event{made(id, "k")}})
			if err != nil {
				return err
			}
			if len(rs) != 1 || rs[0].EventID != id {
				return fmt.Errorf("receipts %+v", rs)
			}
			res, err := tx.ExecContext(context.Background(), upsert, "sum", 1)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if n != 1 {
				return fmt.Errorf("%d rows affected, want 1", n)
			}
			var n int64
			if err := tx.QueryRowContext(context.Background(), `SELECT n FROM suite_rows WHERE k = $1`, "sum").Scan(&n); err != nil {
				return fmt.Errorf("a transaction must read what it wrote: %w", err)
			}
			if tx.Now().IsZero() {
				return errors.New("the time, Now, is zero")
			}
			return result
		})
	}
	one, two, three := work("1", nil), work("2", boom), work("3", nil)
	s.commit(d, one, two, three)
	if one.Err != nil || !errors.Is(two.Err, boom) || three.Err != nil {
		s.Fatalf("%v, %v, %v", one.Err, two.Err, three.Err)
	}
	if rows := s.rows(d); rows["sum"] != 2 {
		s.Errorf("rows %v; want the sum of the two transactions that succeeded", rows)
	}
	if all := s.all(d); len(all) != 2 || all["3"].StreamVersion != 2 {
		s.Errorf("events %v; want 1 and 3, versions without a gap", all)
	}
	conflict := transaction(func(tx driver.Tx) error {
		if _, err := tx.ExecContext(context.Background(), upsert, "sum", 100); err != nil {
			return err
		}
		_, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: 7, Events: []event.Event{made("4", "k")}})
		if !errors.Is(err, driver.ErrConflict) {
			return fmt.Errorf("a conflict inside a transaction: %w", err)
		}
		// The transaction may go on after a conflict: nothing of the append was done.
		_, err = tx.Append(context.Background(), driver.Append{Stream: "s", Expected: 2, Events: []event.Event{made("5", "k")}})
		return err
	})
	s.commit(d, conflict)
	if conflict.Err != nil || s.rows(d)["sum"] != 102 || len(s.all(d)) != 3 {
		s.Errorf("after a conflict inside: %v, rows %v", conflict.Err, s.rows(d))
	}
	bad := transaction(func(tx driver.Tx) error {
		_, err := tx.ExecContext(context.Background(), `INSERT INTO no_such_table (k) VALUES ($1)`, "x")
		return err
	})
	good := work("6", nil)
	s.commit(d, bad, good)
	if bad.Err == nil || good.Err != nil {
		s.Errorf("a broken statement: %v, the unit after it: %v; want an error for the first alone", bad.Err, good.Err)
	}
	s.clean(d)
}

// testStreamsInside: a transaction reads the streams that it, and those before it in the commit, have appended to.
func testStreamsInside(_ *testing.T, s *suite) {
	d := s.open()
	s.append(d, "s", driver.NoStream, made("1", "k"))
	appended := unit("s", 1, made("2", "k2"))
	read := func(tx driver.Tx, q driver.StreamQuery, want ...string) error {
		q.Stream = "s"
		got, err := tx.Stream(context.Background(), q)
		if err != nil || fmt.Sprint(ids(got)) != fmt.Sprint(want) {
			return fmt.Errorf("reading %+v inside: %v, %w; want %v", q, ids(got), err, want)
		}
		for i := range got {
			if e := made(got[i].ID, got[i].PartitionKey); got[i].Metadata != e.Metadata || string(got[i].Payload) != string(e.Payload) {
				return fmt.Errorf("event %s came back inside as %+v", got[i].ID, got[i])
			}
		}
		return nil
	}
	u := transaction(func(tx driver.Tx) error {
		if _, err := tx.Stream(context.Background(), driver.StreamQuery{Stream: "none", From: 1, Limit: 9}); !errors.Is(err, driver.ErrNotFound) {
			return fmt.Errorf("a stream that does not exist: %w, want ErrNotFound", err)
		}
		_ = tx.Savepoint(context.Background(), func() error {
			_, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: 2, Events: []event.Event{made("undone", "k")}})
			return errors.Join(err, errors.New("undo"))
		})
		if _, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: 2, Events: []event.Event{made("3", "k")}}); err != nil {
			return err
		}
		return errors.Join(
			read(tx, driver.StreamQuery{From: 1, Limit: 100}, "1", "2", "3"),
			read(tx, driver.StreamQuery{From: 2, Limit: 1}, "2"),
			read(tx, driver.StreamQuery{Backward: true, Limit: 2}, "3", "2"),
			read(tx, driver.StreamQuery{Backward: true, From: 2, Limit: 100}, "2", "1"),
			read(tx, driver.StreamQuery{From: 4, Limit: 100}),
		)
	})
	s.commit(d, appended, u)
	if err := errors.Join(appended.Err, u.Err); err != nil {
		s.Error(err)
	}
	s.clean(d)
}

func testSavepoints(_ *testing.T, s *suite) {
	d := s.open()
	s.table(d)
	boom := errors.New("boom")
	step := func(tx driver.Tx, id string, result error) error {
		return tx.Savepoint(context.Background(), func() error {
			if _, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: driver.AnyVersion, Events: []event.Event{made(id, "k")}}); err != nil {
				return err
			}
			if _, err := tx.ExecContext(context.Background(), upsert, id, 1); err != nil {
				return err
			}
			return result
		})
	}
	var inner, outer error
	u := transaction(func(tx driver.Tx) error {
		if err := step(tx, "1", nil); err != nil {
			return err
		}
		inner = step(tx, "2", boom)
		outer = tx.Savepoint(context.Background(), func() error {
			if err := step(tx, "3", nil); err != nil {
				return err
			}
			return boom
		})
		func() {
			defer func() { _ = recover() }()
			_ = tx.Savepoint(context.Background(), func() error {
				if err := step(tx, "4", nil); err != nil {
					return err
				}
				panic("out of a savepoint")
			})
		}()
		return step(tx, "5", nil)
	})
	s.commit(d, u)
	if u.Err != nil || !errors.Is(inner, boom) || !errors.Is(outer, boom) {
		s.Fatalf("%v; errors of the savepoints: %v, %v", u.Err, inner, outer)
	}
	rows, all := s.rows(d), s.all(d)
	if len(rows) != 2 || rows["1"] != 1 || rows["5"] != 1 {
		s.Errorf("rows %v; want those of 1 and 5: a savepoint that fails or panics is undone, with those inside it", rows)
	}
	if len(all) != 2 || all["1"].StreamVersion != 1 || all["5"].StreamVersion != 2 {
		s.Errorf("events %v; want 1 and 5, versions without a gap", all)
	}
	// What was undone may be said again.
	if r := s.append(d, "", driver.AnyVersion, made("2", "k")); r[0].Duplicate {
		s.Error("an event of an undone savepoint counts as stored")
	}
	s.clean(d)
}

func testView(_ *testing.T, s *suite) {
	d := s.open()
	s.table(d)
	write := func() {
		u := transaction(func(tx driver.Tx) error {
			for _, k := range []string{"a", "b"} {
				if _, err := tx.ExecContext(context.Background(), upsert, k, 1); err != nil {
					return err
				}
			}
			return nil
		})
		s.commit(d, u)
	}
	write()
	err := d.View(s.Context(), func(q driver.Querier) error {
		read := func(k string) (n int64) {
			if err := q.QueryRowContext(s.Context(), `SELECT n FROM suite_rows WHERE k = $1`, k).Scan(&n); err != nil {
				s.Errorf("reading: %v", err)
			}
			return n
		}
		a := read("a")
		write() // a reader holds up no writer, and sees one moment
		if b := read("b"); a != 1 || b != 1 {
			s.Errorf("a view saw a = %d and, after a commit, b = %d; want one consistent moment", a, b)
		}
		return nil
	})
	if err != nil {
		s.Error(err)
	}
	if rows := s.rows(d); rows["a"] != 2 {
		s.Errorf("rows %v after two writes", rows)
	}
	boom := errors.New("boom")
	if err := d.View(s.Context(), func(driver.Querier) error { return boom }); !errors.Is(err, boom) {
		s.Errorf("View returned %v, want its function's error", err)
	}
}

// testConcurrent: transactions beside Commit, where the engine has them.
func testConcurrent(t *testing.T, s *suite) {
	d := s.open()
	c, ok := d.(driver.Concurrent)
	if !ok {
		t.Skip("all transactions of this engine take turns")
	}
	s.table(d)
	s.commit(d, &driver.Unit{Append: driver.Append{Stream: "s", Expected: driver.AnyVersion, Events: []event.Event{made("1", "k")}}})
	ctx := s.Context()

	// One that waits for another and for a commit: they do not wait for it.
	err := c.Concurrent(ctx, func(tx driver.Tx) error {
		if _, err := tx.ExecContext(ctx, upsert, "outer", 1); err != nil {
			return err
		}
		u := &driver.Unit{Append: driver.Append{Stream: "s", Expected: 1, Events: []event.Event{made("2", "k")}}}
		s.commit(d, u)
		if u.Err != nil {
			return u.Err
		}
		if err := c.Concurrent(ctx, func(tx driver.Tx) error {
			_, err := tx.ExecContext(ctx, upsert, "inner", 1)
			return err
		}); err != nil {
			return err
		}
		var n int64
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM suite_rows`).Scan(&n); err != nil || n != 2 {
			return fmt.Errorf("it sees %d rows, %w; want its own and what was committed", n, err)
		}
		if records, err := tx.Stream(ctx, driver.StreamQuery{Stream: "s", Limit: 10}); err != nil || len(records) != 2 {
			return fmt.Errorf("it sees %d events, %w; want both", len(records), err)
		}
		if tx.Now().IsZero() {
			return errors.New("the time, Now, is zero")
		}
		return tx.Savepoint(ctx, func() error {
			_, err := tx.ExecContext(ctx, upsert, "kept", 1)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}

	boom := errors.New("boom")
	if err := c.Concurrent(ctx, func(tx driver.Tx) error {
		if _, err := tx.ExecContext(ctx, upsert, "undone", 1); err != nil {
			return err
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Errorf("%v, want what the function returned", err)
	}
	if err := c.Concurrent(ctx, func(tx driver.Tx) error {
		if err := tx.Savepoint(ctx, func() error {
			if _, err := tx.ExecContext(ctx, upsert, "undone", 1); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO no_such_table (k) VALUES ($1)`, "x")
			return err
		}); err == nil {
			return errors.New("no error of a broken statement in a savepoint")
		}
		_, err := tx.ExecContext(ctx, upsert, "after", 1)
		return err
	}); err != nil {
		t.Errorf("after a savepoint that was undone: %v", err)
	}
	if err := c.Concurrent(ctx, func(tx driver.Tx) error {
		_, _ = tx.ExecContext(ctx, `INSERT INTO no_such_table (k) VALUES ($1)`, "x")
		return nil
	}); err == nil {
		t.Error("a statement failed, its error was not looked at, and the transaction ended well")
	}
	for what, refused := range map[string]func(tx driver.Tx) error{
		"an append": func(tx driver.Tx) error {
			_, err := tx.Append(ctx, driver.Append{Events: []event.Event{made("3", "k")}})
			return err
		},
		"a change of tables": func(tx driver.Tx) error {
			_, err := tx.ExecContext(ctx, `DROP TABLE suite_rows`)
			return err
		},
	} {
		if err := c.Concurrent(ctx, refused); !errors.Is(err, driver.ErrInTurn) {
			t.Errorf("%s: %v, want ErrInTurn", what, err)
		}
	}
	func() {
		defer func() { _ = recover() }()
		_ = c.Concurrent(ctx, func(tx driver.Tx) error {
			_, _ = tx.ExecContext(ctx, upsert, "undone", 1)
			panic("the function's own")
		})
	}()
	want := map[string]int64{"outer": 1, "inner": 1, "kept": 1, "after": 1}
	if rows := s.rows(d); !maps.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}

	// Many at once, on the same row: each of them counts.
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if err := c.Concurrent(ctx, func(tx driver.Tx) error {
				_, err := tx.ExecContext(ctx, upsert, "sum", 1)
				return err
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.rows(d)["sum"]; n != 40 {
		t.Errorf("the sum of 40 transactions is %d", n)
	}
	s.clean(d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Concurrent(ctx, func(driver.Tx) error { return nil }); !errors.Is(err, driver.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
