package projection

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/carebus/carebus/eventstore"
)

var (
	braced  = regexp.MustCompile(`\{([a-z][a-z0-9_]*)\}`)
	created = regexp.MustCompile(`(?i)\bCREATE\s+(UNIQUE\s+)?(TABLE|INDEX)\s+(?:IF\s+NOT\s+EXISTS\s+)?(\S+)`)
)

// maxName leaves room for the generation's suffix: PostgreSQL cuts names at 63 bytes.
const maxName = 50

// checkTables reads the names out of the ddl.
func (d *Definition) checkTables() error {
	for _, ddl := range d.ddl {
		for _, m := range created.FindAllStringSubmatch(ddl, -1) {
			b := braced.FindStringSubmatch(m[3])
			if b == nil || !strings.HasPrefix(m[3], b[0]) {
				return fmt.Errorf("the %s %s has no braces; write {name}, lower case, so that generations can stand beside each other", strings.ToLower(m[2]), m[3])
			}
			name := b[1]
			switch {
			case len(name) > maxName:
				return fmt.Errorf("the name {%s} has %d bytes; use at most %d", name, len(name), maxName)
			case d.names[name]:
				return fmt.Errorf("{%s} is created twice", name)
			}
			d.names[name] = true
			if strings.EqualFold(m[2], "TABLE") {
				d.tables = append(d.tables, name)
			}
		}
	}
	if len(d.tables) == 0 {
		return fmt.Errorf("no table; add Tables with a CREATE TABLE {name}")
	}
	for _, ddl := range d.ddl {
		if _, err := expand(ddl, d.names, 1); err != nil {
			return err
		}
	}
	return nil
}

// expand puts the names of a generation in the place of the braced ones.
func expand(text string, names map[string]bool, gen int64) (string, error) {
	var err error
	out := braced.ReplaceAllStringFunc(text, func(m string) string {
		name := m[1 : len(m)-1]
		if !names[name] && err == nil {
			err = fmt.Errorf("{%s} is not created by the projection's Tables", name)
		}
		return physical(name, gen)
	})
	return out, err
}

func physical(name string, gen int64) string { return name + "_g" + strconv.FormatInt(gen, 10) }

// generation is one set of a definition's tables.
type generation struct {
	number int64
	names  map[string]bool
	texts  sync.Map // as written -> as executed
	count  atomic.Int64
}

// text resolves the braces of a statement. Statements are written as constants, so they are few; should a handler build
// them, the memory for them is bounded.
func (g *generation) text(s string) (string, error) {
	if t, ok := g.texts.Load(s); ok {
		return t.(string), nil
	}
	t, err := expand(s, g.names, g.number)
	if err != nil {
		return "", err
	}
	if g.count.Load() < 1000 {
		g.count.Add(1)
		g.texts.Store(s, t)
	}
	return t, nil
}

func (d *Definition) generation(number int64) *generation {
	return &generation{number: number, names: d.names}
}

// createTables makes the tables of a generation.
func (d *Definition) createTables(ctx context.Context, tx *eventstore.Tx, gen int64) error {
	for _, ddl := range d.ddl {
		text, err := expand(ddl, d.names, gen)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, text); err != nil {
			return fmt.Errorf("projection %s: creating its tables: %w", d.name, err)
		}
	}
	return nil
}

func dropTables(ctx context.Context, tx *eventstore.Tx, tables []string, gen int64) error {
	for _, t := range slices.Backward(tables) {
		if _, err := tx.ExecContext(ctx, `DROP TABLE `+physical(t, gen)); err != nil {
			return err
		}
	}
	return nil
}

func createViews(ctx context.Context, tx *eventstore.Tx, tables []string, gen int64) error {
	for _, t := range tables {
		if _, err := tx.ExecContext(ctx, `CREATE VIEW `+t+` AS SELECT * FROM `+physical(t, gen)); err != nil {
			return fmt.Errorf("the view %s: %w", t, err)
		}
	}
	return nil
}

func dropViews(ctx context.Context, tx *eventstore.Tx, tables []string) error {
	for _, t := range tables {
		if _, err := tx.ExecContext(ctx, `DROP VIEW `+t); err != nil {
			return err
		}
	}
	return nil
}
