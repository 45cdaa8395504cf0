package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/carebus/carebus/eventstore/driver"
)

// notifier tells other processes of commits. It does so beside the commits, not in them: NOTIFY in a transaction takes a
// lock that all databases of a server share, and holds it until the transaction is durable. What it fails to tell, because
// the process ends or the connection breaks, the others find by polling.
//
// What it tells is the store's id, and then, after a space, the partitions that have grown, each as "partition:head", so that
// the others need not look. Without the space they must.
type notifier struct {
	d      *DB
	wake   chan struct{} // of capacity 1: commits that come while one is told of are told of together
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	heads []int64 // after the last commit that was to be told of
	told  []int64
	look  bool // others must look for themselves
}

// longest is the longest payload of a NOTIFY that is sent; the server takes 8000 bytes.
const longest = 7000

func newNotifier(d *DB) *notifier {
	ctx, cancel := context.WithCancel(context.Background())
	n := &notifier{d: d, wake: make(chan struct{}, 1), heads: make([]int64, d.info.Partitions), told: make([]int64, d.info.Partitions), cancel: cancel, done: make(chan struct{})}
	go n.run(ctx)
	return n
}

// tell has a commit told of. heads are those after it: none when nothing was appended, nil when others must look for
// themselves.
func (n *notifier) tell(heads []int64) {
	n.mu.Lock()
	n.look = n.look || heads == nil
	for p, h := range heads {
		n.heads[p] = max(n.heads[p], h)
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notifier) payload() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := n.d.id + " "
	for p, h := range n.heads {
		if h > n.told[p] {
			n.told[p] = h
			text += fmt.Sprintf("%d:%d ", p, h)
		}
	}
	if n.look || len(text) > longest {
		text = n.d.id
	}
	n.look = false
	return text
}

// grown reads a payload: who sends it, and heads of partitions, 0 where nothing is told; nil heads when they are to be looked for.
func (d *DB) grown(payload string) (id string, heads []int64) {
	id, list, told := strings.Cut(payload, " ")
	if !told {
		return id, nil
	}
	heads = make([]int64, d.info.Partitions)
	for _, f := range strings.Fields(list) {
		part, head, _ := strings.Cut(f, ":")
		p, err := strconv.Atoi(part)
		h, herr := strconv.ParseInt(head, 10, 64)
		if err != nil || herr != nil || p < 0 || p >= len(heads) {
			return id, nil
		}
		heads[p] = h
	}
	return id, heads
}

func (n *notifier) run(ctx context.Context) {
	defer close(n.done)
	for {
		select {
		case <-n.wake:
			_, _ = n.d.readers.Exec(ctx, notifyText, n.d.channel, n.payload())
		case <-ctx.Done():
			return
		}
	}
}

const notifyText = `SELECT pg_notify($1, $2)`

// close tells of the last commit and ends.
func (n *notifier) close() {
	n.cancel()
	<-n.done
	select {
	case <-n.wake:
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = n.d.readers.Exec(ctx, notifyText, n.d.channel, n.payload())
	default:
	}
}

// Watch calls notify for other processes' commits until ctx ends. It connects again by itself.
func (d *DB) Watch(ctx context.Context, notify func(heads []int64)) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		began := time.Now()
		err := d.watch(ctx, notify)
		if ctx.Err() != nil || d.ending.Load() {
			return nil
		}
		if err = mapError(err); err != nil && !errors.Is(err, driver.ErrUnavailable) {
			return err
		}
		if time.Since(began) > 5*time.Second {
			pause = 20 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// watch listens on one connection, and polls where nothing is heard.
//
// The sequence carebus_commits moves before its transaction is visible:
//
//  1. A moves the sequence.
//  2. B sees it moved, reads the store, finds nothing new.
//  3. A commits, and dies before it tells.
//
// So B takes the number for settled only when no transaction was under way after it has read it: it can have the lock for
// a moment. Until then it reads the store at every poll. A standby has no locks of the primary, nor notifications: there
// the place in the log that was replayed takes the number's part.
func (d *DB) watch(ctx context.Context, notify func(heads []int64)) error {
	c, err := pgx.ConnectConfig(ctx, d.config)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(end)
	}()
	if err := d.prepare(ctx, c, "SET statement_timeout = 10000"); err != nil {
		return err
	}
	var standby bool
	if err := c.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
		return err
	}
	if !standby {
		if _, err := c.Exec(ctx, `LISTEN `+pgx.Identifier{d.channel}.Sanitize()); err != nil {
			return err
		}
	}
	notify(nil) // of what came before
	settled, err := d.poll(ctx, c, standby)
	if err != nil {
		return err
	}
	next := time.Now().Add(d.opts.PollInterval)
	for {
		wait, cancel := context.WithDeadline(ctx, next)
		n, err := c.WaitForNotification(wait)
		cancel()
		switch {
		case err == nil:
			if id, heads := d.grown(n.Payload); id != d.id { // our own are known
				notify(heads)
			}
			if time.Now().Before(next) {
				continue
			}
		case ctx.Err() != nil:
			return nil
		case !pgconn.Timeout(err):
			return err
		}
		at, err := d.poll(ctx, c, standby)
		if err != nil {
			return err
		}
		if !at.settled || at.commits != settled.commits {
			notify(nil)
		}
		settled = at
		next = time.Now().Add(d.opts.PollInterval)
	}
}

// moment is what a poll has found.
type moment struct {
	commits int64
	settled bool
}

func (d *DB) poll(ctx context.Context, c *pgx.Conn, standby bool) (m moment, err error) {
	if standby {
		m.settled = true
		err = c.QueryRow(ctx, `SELECT COALESCE(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)::bigint`).Scan(&m.commits)
		return m, err
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT last_value FROM carebus_commits`).QueryRow(func(r pgx.Row) error { return r.Scan(&m.commits) })
	b.Queue(`SELECT pg_try_advisory_xact_lock_shared($1, $2)`, int32(lockClass), d.lock).QueryRow(func(r pgx.Row) error { return r.Scan(&m.settled) })
	err = c.SendBatch(ctx, b).Close()
	return m, err
}
