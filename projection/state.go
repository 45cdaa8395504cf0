package projection

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// carebus_projections has one row per projection:
//
//	version, digest, tables   of the live generation
//	live        number of the live generation
//	last        highest number ever given to a generation
//	events      events that the live generation was built from; 0 for the first, which nothing was built for
//	building    number of the generation that is being built, 0 for none; the columns that follow belong to it
//	program     digest of the program that began the build: another one may have other handlers, and begins anew
//	token       of the builder, which every commit of a build checks; until: when others may take the build over
//
// carebus_projection_builds says how far a build has come in each partition. carebus_projection_held has the keys whose
// events the build leaves out from head on, because the live group had parked them when the build came by.
var schemaSteps = []string{`
CREATE TABLE carebus_projections (
	name TEXT PRIMARY KEY,
	version BIGINT NOT NULL,
	digest TEXT NOT NULL,
	tables TEXT NOT NULL,
	live BIGINT NOT NULL,
	last BIGINT NOT NULL,
	events BIGINT NOT NULL,
	live_since BIGINT NOT NULL,
	building BIGINT NOT NULL,
	build_version BIGINT NOT NULL,
	build_digest TEXT NOT NULL,
	build_tables TEXT NOT NULL,
	build_events BIGINT NOT NULL,
	build_began BIGINT NOT NULL,
	build_reason TEXT NOT NULL,
	build_actor TEXT NOT NULL,
	program TEXT NOT NULL,
	token TEXT NOT NULL,
	until BIGINT NOT NULL
);
CREATE TABLE carebus_projection_builds (
	name TEXT NOT NULL,
	part BIGINT NOT NULL,
	next BIGINT NOT NULL,
	PRIMARY KEY (name, part)
);
CREATE TABLE carebus_projection_held (
	name TEXT NOT NULL,
	part BIGINT NOT NULL,
	pkey TEXT NOT NULL,
	head BIGINT NOT NULL,
	PRIMARY KEY (name, part, pkey)
);
`}

// Errors that this package reports, tested with errors.Is.
var (
	// ErrOlder: the store holds a higher version of the projection than the definition's. Run the newer program.
	ErrOlder = errors.New("the stored version is higher")
	// ErrChanged: the definition's tables are not those stored under its version. Raise the version.
	ErrChanged = errors.New("the tables have changed under the same version")
	// ErrBuilding: another Rebuild of the projection is under way, in this process or another.
	ErrBuilding = errors.New("a build is under way")
	// ErrTaken: another projection has a table of the same name.
	ErrTaken = errors.New("the table belongs to another projection")
	// ErrNotFound: the store has no such projection.
	ErrNotFound = errors.New("no such projection")

	errLostBuild = fmt.Errorf("%w: this one was taken for dead, and another took it over", ErrBuilding)
)

// row is a projection as stored.
type row struct {
	name      string
	version   int
	digest    string
	tables    []string
	live      int64
	last      int64
	events    int64
	liveSince time.Time
	build     buildRow
}

type buildRow struct {
	gen     int64
	version int
	digest  string
	tables  []string
	events  int64
	began   time.Time
	reason  string
	actor   string
	program string
	token   string
	until   time.Time
}

const rowColumns = `name, version, digest, tables, live, last, events, live_since, building, build_version, build_digest, build_tables,
	build_events, build_began, build_reason, build_actor, program, token, until`

func scanRow(rows *sql.Rows) (r row, err error) {
	var tables, building string
	var since, began, until int64
	err = rows.Scan(&r.name, &r.version, &r.digest, &tables, &r.live, &r.last, &r.events, &since, &r.build.gen, &r.build.version,
		&r.build.digest, &building, &r.build.events, &began, &r.build.reason, &r.build.actor, &r.build.program, &r.build.token, &until)
	r.tables, r.build.tables = strings.Fields(tables), strings.Fields(building)
	r.liveSince, r.build.began, r.build.until = time.UnixMicro(since).UTC(), time.UnixMicro(began).UTC(), time.UnixMicro(until).UTC()
	return r, err
}

// load reads the stored projections, all or the one named.
func load(ctx context.Context, q eventstore.Querier, name string) ([]row, error) {
	query, args := `SELECT `+rowColumns+` FROM carebus_projections ORDER BY name`, []any{}
	if name != "" {
		query, args = `SELECT `+rowColumns+` FROM carebus_projections WHERE name = $1`, []any{name}
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []row
	for rows.Next() {
		r, err := scanRow(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// ensure makes a projection's first generation if the store has none, and returns what is stored.
func ensure(ctx context.Context, s *eventstore.Store, d *Definition) (r row, err error) {
	if err := d.err(); err != nil {
		return r, err
	}
	if err := s.Migrate(ctx, "projection", schemaSteps...); err != nil {
		return r, fmt.Errorf("projection: tables: %w", err)
	}
	stored, err := look(ctx, s, d.name)
	if err == nil && stored.live > 0 {
		return stored, d.fits(stored)
	}
	err = s.Update(ctx, func(tx *eventstore.Tx) error {
		rows, err := load(ctx, tx, d.name)
		if err != nil {
			return err
		}
		if len(rows) > 0 { // another process was faster
			r = rows[0]
			return d.fits(r)
		}
		if err := d.free(ctx, tx); err != nil {
			return err
		}
		now := tx.Now()
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_projections (`+rowColumns+`)
			VALUES ($1, $2, $3, $4, 1, 1, 0, $5, 0, 0, '', '', 0, 0, '', '', '', '', 0)`,
			d.name, d.version, d.digest, strings.Join(d.tables, " "), now.UnixMicro()); err != nil {
			return err
		}
		if err := d.createTables(ctx, tx, 1); err != nil {
			return err
		}
		r = row{name: d.name, version: d.version, digest: d.digest, tables: d.tables, live: 1, last: 1, liveSince: now}
		return createViews(ctx, tx, d.tables, 1)
	})
	return r, err
}

// look reads one projection's row outside a transaction.
func look(ctx context.Context, s *eventstore.Store, name string) (r row, err error) {
	err = s.View(ctx, func(q eventstore.Querier) error {
		rows, err := load(ctx, q, name)
		if err == nil && len(rows) == 0 {
			return fmt.Errorf("projection %s: %w; it exists once it has been registered", name, ErrNotFound)
		}
		if err == nil {
			r = rows[0]
		}
		return err
	})
	return r, err
}

// fits says whether a definition may work with what is stored.
func (d *Definition) fits(r row) error {
	switch {
	case r.version > d.version:
		return fmt.Errorf("projection %s: %w: stored %d, this program has %d; run the newer program", d.name, ErrOlder, r.version, d.version)
	case r.version == d.version && r.digest != d.digest:
		return fmt.Errorf("projection %s: %w %d; raise the version, and the new tables are built beside the old", d.name, ErrChanged, d.version)
	}
	return nil
}

// free checks that no other projection shows, or builds, a table of the same name.
func (d *Definition) free(ctx context.Context, tx *eventstore.Tx) error {
	rows, err := load(ctx, tx, "")
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, t := range d.tables {
			if r.name != d.name && (slices.Contains(r.tables, t) || slices.Contains(r.build.tables, t)) {
				return fmt.Errorf("projection %s: %w: {%s} is one of %s; choose another name", d.name, ErrTaken, t, r.name)
			}
		}
	}
	return nil
}
