package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
)

// demoWatch reads along while the demo runs, counts, and shows what happens: on a terminal as one block that is drawn
// anew, elsewhere as a line a second.
type demoWatch struct {
	p        *carebus.Platform
	w        io.Writer
	terminal bool
	mark     string // in every id of this run
	begin    time.Time
	next     []int64

	types                 map[string]int64
	begun, filled, denied int64           // prescriptions of this run
	shown                 string          // correlation of a flow that was asked for, approved and filled
	asked                 map[string]bool // correlations of flows that were asked for, until one is to be shown
	first                 string          // correlation of the first flow
	last                  []string        // lines of the newest events
	drawn                 int             // lines of the block on the terminal
	told                  int64           // events when the last line was written
}

func newDemoWatch(ctx context.Context, p *carebus.Platform, w io.Writer, mark string) (*demoWatch, error) {
	heads, err := p.Store().Heads(ctx)
	return &demoWatch{p: p, w: w, mark: mark, terminal: isTerminal(w), begin: time.Now(), next: heads, types: map[string]int64{}, asked: map[string]bool{}}, err
}

// run shows until ctx ends.
func (d *demoWatch) run(ctx context.Context) error {
	every := time.Second
	if d.terminal {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.look(ctx, every); err != nil && !errors.Is(err, eventstore.ErrUnavailable) { // else it is looked at later
			return stopped(ctx, err)
		}
	}
}

func (d *demoWatch) look(ctx context.Context, since time.Duration) error {
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	var total, lag, parked int64
	for _, n := range d.types {
		total += n
	}
	groups, err := d.p.Bus().Groups(ctx)
	if err != nil {
		return err
	}
	rows := []string{}
	for _, g := range groups {
		lag, parked = lag+g.Lag, parked+g.ParkedKeys
		rows = append(rows, fmt.Sprintf("  %-18s %-8s lag %-6d parked keys %-4d parked events %d", g.Name, g.State, g.Lag, g.ParkedKeys, g.Waiting))
	}
	head := fmt.Sprintf("%4.0fs  %s, %d filled, %d denied; %s, %.0f a second, lag %d, %s",
		time.Since(d.begin).Seconds(), plural(d.begun, "prescription"), d.filled, d.denied, plural(total, "event"), float64(total-d.told)/since.Seconds(), lag, plural(parked, "parked key"))
	d.told = total
	if !d.terminal {
		_, err := fmt.Fprintln(d.w, head)
		return err
	}
	lines := append(append([]string{head, ""}, rows...), "")
	lines = append(lines, d.last...)
	for i := range lines { // a line that wraps would spoil the count of lines to go up again
		lines[i] = clip(lines[i], d.w)
	}
	d.clear()
	d.drawn = len(lines)
	_, err = fmt.Fprintln(d.w, strings.Join(lines, "\n"))
	return err
}

// clip cuts a line to the width of the terminal.
func clip(line string, w io.Writer) string {
	f, ok := w.(*os.File)
	if !ok {
		return line
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if runes := []rune(line); err == nil && width > 0 && len(runes) >= width {
		return string(runes[:width-1])
	}
	return line
}

// clear takes the block from the terminal.
func (d *demoWatch) clear() {
	if d.drawn > 0 {
		fmt.Fprintf(d.w, "\x1b[%dA\x1b[J", d.drawn)
		d.drawn = 0
	}
}

// catchUp reads and counts what was stored since it last did.
func (d *demoWatch) catchUp(ctx context.Context) error {
	for r, err := range d.p.Store().All(ctx, d.next, nil) {
		if err != nil {
			return err
		}
		d.next[r.Partition] = r.Offset + 1
		d.count(r)
	}
	return nil
}

func (d *demoWatch) count(r eventstore.Record) {
	d.types[r.Type]++
	if mine := strings.Contains(r.PartitionKey, d.mark); mine {
		switch r.Type {
		case "medication.prescription.created":
			if d.begun++; d.first == "" {
				d.first = r.CorrelationID
			}
		case "priorauth.request.submitted":
			if d.shown == "" {
				d.asked[r.CorrelationID] = true
			}
		case "priorauth.status.denied":
			d.denied++
		case "medication.prescription.filled":
			if d.filled++; d.shown == "" && d.asked[r.CorrelationID] {
				d.shown, d.asked = r.CorrelationID, nil
			}
		}
	}
	d.last = append(d.last, fmt.Sprintf("  %s  %-41s %-26s %s", r.RecordedAt.UTC().Format("15:04:05.000"), r.Type, r.Source, r.PartitionKey))
	d.last = d.last[max(0, len(d.last)-6):]
}

// show is the correlation of a flow worth looking at.
func (d *demoWatch) show() string {
	if d.shown == "" {
		return d.first
	}
	return d.shown
}
