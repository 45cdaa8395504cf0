package eventstore

import (
	"context"
	"time"

	"github.com/carebus/carebus/event"
)

// Hook is told of what a store does: a value with the method of AppendHook, of CommitHook, or of both. Hooks are called
// by many goroutines at once, and return at once: an append or a commit waits for them.
type Hook = any

// AppendHook is told of appends.
type AppendHook interface {
	// OnAppend is called when an append begins, of the store or, with inTx, of a transaction, by the goroutine that
	// appends. events are what will be stored, not yet completed: the hook may fill in an id or a trace that is empty, and
	// changes nothing else. It returns the context to go on with and, unless it is nil, a function that is called once, when
	// it is known what came of the append: without an error it is on stable storage, with one nothing of it remains.
	// By then the events are complete. In a transaction it is called after the commit, or when the append is undone.
	OnAppend(ctx context.Context, events []event.Event, inTx bool) (context.Context, func(receipts []Receipt, err error))
}

// CommitHook is told of every group commit, after those who wait for it have been answered, by the one goroutine that
// commits.
type CommitHook interface {
	OnCommit(c Commit)
}

// Commit is a group commit that has ended.
type Commit struct {
	Units  int           // appends and transactions that shared it
	Waited time.Duration // of the one that has waited longest, from entering the queue until the commit began
	Took   time.Duration
	Err    error // nothing was stored
}

// hooks are the hooks of a store by what they are told of.
type hooks struct {
	append []AppendHook
	commit []CommitHook
}

func hooksOf(all []Hook) (h hooks) {
	for _, one := range all {
		if a, ok := one.(AppendHook); ok {
			h.append = append(h.append, a)
		}
		if c, ok := one.(CommitHook); ok {
			h.commit = append(h.commit, c)
		}
	}
	return h
}

// appending is an append whose outcome the hooks are to be told.
type appending struct {
	ends     []func([]Receipt, error)
	receipts []Receipt
}

func (h hooks) begin(ctx context.Context, events []event.Event, inTx bool) (context.Context, appending) {
	var a appending
	for _, hook := range h.append {
		var end func([]Receipt, error)
		if ctx, end = hook.OnAppend(ctx, events, inTx); end != nil {
			a.ends = append(a.ends, end)
		}
	}
	return ctx, a
}

func (a appending) end(err error) {
	for _, end := range a.ends {
		if err != nil {
			end(nil, err)
		} else {
			end(a.receipts, nil)
		}
	}
}
