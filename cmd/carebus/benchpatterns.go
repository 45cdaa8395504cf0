package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/saga"
)

// benchMember is a platform with a bus of its own, so that what one measure has joined is not run in the next.
type benchMember struct {
	*bus.Bus
	p *carebus.Platform
}

func (m benchMember) Store() *eventstore.Store { return m.p.Store() }
func (m benchMember) Upcast(e event.Event, version string) (event.Event, error) {
	return m.p.Upcast(e, version)
}

func (b *bench) member(ctx context.Context) (benchMember, error) {
	bb, err := bus.New(ctx, b.p.Store(), nil)
	return benchMember{bb, b.p}, err
}

// while does something while the member's groups run.
func (m benchMember) while(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	err := do(ctx)
	cancel()
	return errors.Join(err, <-done)
}

// atOnce does n things, some at a time.
func atOnce(some, n int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, some)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// inTurns does n things in three parts, each after the engine alone has done as much, so that a machine that slows down
// slows both. It returns what each did per second.
func inTurns(n int, alone func(from, to int) (perSecond float64, err error), do func(from, to int) error) (rate, raw float64, err error) {
	const parts = 3
	var took, tookRaw float64
	for part := range parts {
		from, to := part*n/parts, (part+1)*n/parts
		if from == to {
			continue
		}
		r, err := alone(from, to)
		if err != nil {
			return 0, 0, err
		}
		tookRaw += float64(to-from) / r
		begin := time.Now()
		if err := do(from, to); err != nil {
			return 0, 0, err
		}
		took += time.Since(begin).Seconds()
	}
	return float64(n) / took, float64(n) / tookRaw, nil
}

type benchEntity struct{ Fills int }

var benchEntities = aggregate.Define("bench.entity", aggregate.On(event.Define[struct{}](benchType, "2.0.0"), func(s *benchEntity, _ event.Of[struct{}]) { s.Fills++ }))

// commands measures commands on entities that are at work: each has carried out some already. A command loads, decides,
// validates and appends one event; its state is checked at the end.
func (b *bench) commands(ctx context.Context) error {
	const benchers = 256
	const name = "commands on entities, 256 at once"
	if !b.wants(name) {
		return nil
	}
	const entities = 8 * 256 // each worker has its own
	rounds := max(1, b.c.events/entities)
	decide := func(key string) aggregate.Decide[benchEntity] {
		return func(benchEntity) ([]event.Event, error) { return []event.Event{benchEvent(key)}, nil }
	}
	command := func(i int) error {
		key := benchKey(i % entities)
		_, err := benchEntities.Update(ctx, b.p, key, decide(key))
		return err
	}
	if err := atOnce(benchers, entities, command); err != nil { // they are known now
		return err
	}
	rate, raw, err := inTurns(rounds*entities, func(from, to int) (float64, error) {
		raw, _, err := b.raw.inserts(ctx, benchEvent(benchKey(1)), to-from, benchers, true)
		return raw, err
	}, func(from, to int) error {
		return atOnce(benchers, to-from, func(i int) error { return command(from + i) })
	})
	if err != nil {
		return err
	}
	for i := range entities {
		s, err := benchEntities.Load(ctx, b.p, benchKey(i))
		if err != nil {
			return err
		}
		if s.State.Fills != rounds+1 || s.Version != int64(rounds+1) {
			return fmt.Errorf("%s: an entity has %d events and a state of %d, want %d", name, s.Version, s.State.Fills, rounds+1)
		}
	}
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 20 k/s"})
	return nil
}

type benchOrder struct {
	ID string `json:"id"`
}

// sagas measures sagas of five durable steps, from start to end. Raw is what one of them stores, and nothing else: seven
// events (started, five steps, completed) and seven upserts (five effects, the instance's row twice).
func (b *bench) sagas(ctx context.Context) error {
	const name = "sagas of 5 steps"
	if !b.wants(name) {
		return nil
	}
	n := max(500, b.c.events/10)
	if err := b.p.Store().Migrate(ctx, "bench-sagas", `CREATE TABLE bench_saga (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`); err != nil {
		return err
	}
	note := func(_ context.Context, tx bus.Tx, s *benchOrder) error {
		_, err := tx.Exec(`INSERT INTO bench_saga (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = bench_saga.n + 1`, s.ID)
		return err
	}
	step := func(name string) saga.Step[benchOrder] { return saga.Do(name, note).Compensate(note) }
	def := saga.Define("bench", 1, step("verify"), step("reserve"), step("claim"), step("fill"), step("notify"))
	m, err := b.member(ctx)
	if err != nil {
		return err
	}
	if err := saga.Register(ctx, m, def); err != nil {
		return err
	}
	var rate, raw float64
	err = m.while(ctx, func(ctx context.Context) (err error) {
		if err := m.Idle(ctx); err != nil { // behind everything that was stored before
			return err
		}
		rate, raw, err = inTurns(n, func(from, to int) (float64, error) {
			return b.raw.sagas(ctx, benchEvent(benchKey(1)), from, to)
		}, func(from, to int) error {
			err := atOnce(64, to-from, func(i int) error {
				id := sagaKey(from + i)
				return def.Start(ctx, b.p.Store(), id, benchOrder{ID: id})
			})
			if err != nil {
				return err
			}
			return m.Idle(ctx)
		})
		return err
	})
	if err != nil {
		return err
	}
	if err := b.checkSagas(ctx, n); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 2 k/s"})
	return nil
}

func sagaKey(i int) string { return fmt.Sprint("saga-", i) }

// checkSagas looks whether n sagas have completed, with all their effects and events, once each.
func (b *bench) checkSagas(ctx context.Context, n int) error {
	counts, err := saga.Count(ctx, b.p.Store(), "bench")
	if err != nil {
		return err
	}
	if got := counts[1][saga.Completed]; got != n {
		return fmt.Errorf("%d of %d completed", got, n)
	}
	var rows, effects int
	err = b.p.Store().View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(n), 0) FROM bench_saga`).Scan(&rows, &effects)
	})
	if err != nil {
		return err
	}
	if rows != n || effects != 5*n {
		return fmt.Errorf("%d rows with %d effects of %d sagas, want %d", rows, effects, n, 5*n)
	}
	types, err := b.p.Store().Types(ctx)
	if err != nil {
		return err
	}
	for typ, want := range map[string]int{"platform.saga.started": n, "platform.saga.step-completed": 5 * n, "platform.saga.completed": n} {
		if types[typ] != int64(want) {
			return fmt.Errorf("%d events %s of %d sagas, want %d", types[typ], typ, n, want)
		}
	}
	return nil
}

// sagas measures the storing alone, 32 sagas in one transaction.
func (r *rawStore) sagas(ctx context.Context, e event.Event, from, to int) (float64, error) {
	const together, events = 32, 7
	st, err := r.conn.PrepareContext(ctx, rawUpsert)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	begin := time.Now()
	for done := from; done < to; done += together {
		now := min(together, to-done)
		err := r.commitWith(ctx, e, now*events, true, func() error {
			for i := range now * events {
				if _, err := st.ExecContext(ctx, sagaKey(done+i/events)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return float64(to-from) / time.Since(begin).Seconds(), nil
}

// projections measures a read model with one upsert for each event: kept up to date by a group that has everything before
// it, and built anew beside the live one. What the two have is compared.
func (b *bench) projections(ctx context.Context) error {
	const live, rebuild = "projection, one upsert per event", "projection, rebuilt beside the live one"
	if !b.wants(live) && !b.wants(rebuild) {
		return nil
	}
	def := projection.Define("bench-fills", 1,
		projection.Tables(`CREATE TABLE {bench_fills} (k TEXT PRIMARY KEY, n BIGINT NOT NULL, last BIGINT NOT NULL)`),
		projection.OnRecord(benchType, func(_ context.Context, tx projection.Tx, r eventstore.Record) error {
			_, err := tx.Exec(`INSERT INTO {bench_fills} (k, n, last) VALUES ($1, 1, $2) ON CONFLICT (k) DO UPDATE SET n = {bench_fills}.n + 1, last = excluded.last`, r.PartitionKey, r.Timestamp)
			return err
		}))
	m, err := b.member(ctx)
	if err != nil {
		return err
	}
	if err := projection.Register(ctx, m, def); err != nil {
		return err
	}
	types, err := b.p.Store().Types(ctx)
	if err != nil {
		return err
	}
	total := types[benchType]
	for ; total < int64(b.c.events); total += 1000 {
		events := make([]event.Event, 1000)
		for i := range events {
			events[i] = benchEvent(benchKey(int(b.next.Add(1))))
		}
		if _, err := b.p.PublishBatch(ctx, events); err != nil {
			return err
		}
	}
	raw, err := b.raw.effects(ctx, int(min(total, int64(2*b.c.events))), 500)
	if err != nil {
		return err
	}
	return m.while(ctx, func(ctx context.Context) error {
		begin := time.Now()
		if err := m.Idle(ctx); err != nil {
			return err
		}
		rate := float64(total) / time.Since(begin).Seconds()
		b.add(benchPoint{Name: live, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 40 k/s"})
		begin = time.Now()
		if err := projection.Rebuild(ctx, m, def, bus.Act{Actor: "bench", Reason: "measured"}, nil); err != nil {
			return err
		}
		rate = float64(total) / time.Since(begin).Seconds()
		b.add(benchPoint{Name: rebuild, Rate: rate, Raw: raw, Ratio: rate / raw})
		found, err := projection.Check(ctx, m, def, nil)
		if err != nil || len(found) > 0 {
			return errors.Join(err, fmt.Errorf("%s: differs from its rebuild: %+v", live, found))
		}
		var n int64
		err = b.p.Store().View(ctx, func(q eventstore.Querier) error {
			return q.QueryRowContext(ctx, `SELECT COALESCE(SUM(n), 0) FROM bench_fills`).Scan(&n)
		})
		if err != nil || n != total {
			return errors.Join(err, fmt.Errorf("%s: %d of %d events were applied", live, n, total))
		}
		return nil
	})
}
