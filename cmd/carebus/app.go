package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"

	"charm.land/fang/v2"
	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/adrg/xdg"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/schema"
)

// app is what the commands share: the flags that all of them have, and the streams.
type app struct {
	store  string
	bus    string
	output string
	stdin  io.Reader
}

// run carries out one command line and returns the exit code: 0 ok, 1 the work failed, 2 usage, 3 not found,
// 4 conflict. Data goes to stdout, talk to stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := fang.Execute(ctx, root, fang.WithVersion(version()), fang.WithErrorHandler(printError), fang.WithoutManpage())
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "carebus",
		Short: "An event-driven platform for healthcare services",
		Long: `carebus keeps healthcare events in a durable, ordered, replayable store and delivers them to services.

Begin with:  carebus demo
Then look:   carebus tail --from beginning, carebus group list, carebus dlq list, carebus flow CORRELATION`,
		SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "table" && a.output != "json" {
				return usagef("-o %s: no such output; use table or json", a.output)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usagef("%w; see %s --help", err, cmd.CommandPath()) })
	root.PersistentFlags().StringVar(&a.store, "store", os.Getenv("CAREBUS_STORE"), "the store, sqlite:PATH or postgres://… (env CAREBUS_STORE; default: a file in the user's data directory)")
	root.PersistentFlags().Lookup("store").DefValue = shown(os.Getenv("CAREBUS_STORE")) // which the help shows
	root.PersistentFlags().StringVar(&a.bus, "bus", os.Getenv("CAREBUS_BUS"), "kafka://HOST:PORT,…?OPTION=VALUE&… when Apache Kafka is the bus of the store (env CAREBUS_BUS; default: the store itself)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table or json")
	root.AddCommand(a.commands()...)
	for _, cmd := range root.Commands() {
		tellUsage(cmd)
	}
	return root
}

// tellUsage makes a wrong number of arguments come with how the command is used.
func tellUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			names := []string{}
			for _, child := range cmd.Commands() {
				names = append(names, child.Name())
			}
			if len(names) > 0 {
				return usagef("%w; its commands are %s", err, strings.Join(names, ", "))
			}
			return usagef("%w; usage: %s", err, cmd.UseLine())
		}
	}
	for _, child := range cmd.Commands() {
		tellUsage(child)
	}
}

// usageError is a command line that cannot be carried out: exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// notFoundError names what does not exist: exit code 3.
type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return e.text }

func notFoundf(format string, args ...any) error { return &notFoundError{fmt.Sprintf(format, args...)} }

func exitCode(err error) int {
	var usage *usageError
	var missing *notFoundError
	var config *bus.ConfigError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), errors.As(err, &config), isCobraUsage(err):
		return 2
	case errors.As(err, &missing), errors.Is(err, eventstore.ErrNotFound), errors.Is(err, schema.ErrUnknownType), errors.Is(err, schema.ErrUnknownVersion),
		errors.Is(err, bus.ErrNoGroup), errors.Is(err, bus.ErrNotParked), errors.Is(err, bus.ErrNoJob),
		errors.Is(err, bridge.ErrNotRefused), errors.Is(err, bridge.ErrGone), errors.Is(err, bridge.ErrNoTopic):
		return 3
	case errors.Is(err, eventstore.ErrConflict), errors.Is(err, eventstore.ErrDifferentContent), errors.Is(err, saga.ErrEnded), errors.Is(err, saga.ErrNotStuck),
		errors.Is(err, saga.ErrUndoing), errors.Is(err, saga.ErrParked),
		errors.Is(err, schema.ErrIncompatible), errors.Is(err, schema.ErrVersion):
		return 4
	}
	return 1
}

// isCobraUsage recognises the usage errors of cobra, which have no type of their own.
func isCobraUsage(err error) bool {
	text := err.Error()
	for _, begin := range []string{"unknown command", "accepts ", "requires at least", "required flag", "invalid argument", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(text, begin) {
			return true
		}
	}
	return false
}

func printError(w io.Writer, _ fang.Styles, err error) {
	fmt.Fprintln(w, "carebus:", strings.TrimPrefix(err.Error(), "carebus: "))
}

// storeName is the store that the flags name.
func (a *app) storeName() (string, error) {
	if a.store != "" {
		return a.store, nil
	}
	path, err := xdg.DataFile("carebus/carebus.db")
	if err != nil {
		return "", fmt.Errorf("no place for the store in the user's data directory: %w; name one with --store", err)
	}
	return "sqlite:" + path, nil
}

// open opens the store, creating it.
func (a *app) open(ctx context.Context, cmd *cobra.Command, o *carebus.Options) (*carebus.Platform, error) {
	name, err := a.storeName()
	if err != nil {
		return nil, err
	}
	if o == nil {
		o = &carebus.Options{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	if !o.ReadOnly && o.Kafka == nil {
		if o.Kafka, err = busOptions(a.bus); err != nil {
			return nil, err
		}
		if o.Kafka != nil {
			o.Kafka.Logger = o.Logger
		}
	}
	return carebus.Open(ctx, name, o)
}

// openExisting opens a store that must be there: a command that looks or repairs must not create an empty one.
func (a *app) openExisting(ctx context.Context, cmd *cobra.Command, o *carebus.Options) (*carebus.Platform, error) {
	name, err := a.storeName()
	if err != nil {
		return nil, err
	}
	if onServer(name) {
		if err := onServerExists(ctx, name, o); err != nil {
			return nil, err
		}
		return a.open(ctx, cmd, o)
	}
	path := strings.TrimPrefix(name, "sqlite:")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if demo, err := xdg.SearchDataFile(demoFile); err == nil && a.store == "" {
			return nil, notFoundf("no store at %s; the demo's is --store 'sqlite:%s'", filepath.Clean(path), demo)
		}
		return nil, notFoundf("no store at %s; run carebus demo or carebus import first, or name another with --store", filepath.Clean(path))
	}
	return a.open(ctx, cmd, o)
}

// with opens an existing store for the time of fn.
func (a *app) with(cmd *cobra.Command, o *carebus.Options, fn func(ctx context.Context, p *carebus.Platform) error) (err error) {
	p, err := a.openExisting(cmd.Context(), cmd, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return fn(cmd.Context(), p)
}

// withRegistry opens the store for reading, for the sake of its schemas. Where there is none yet the schemas are those of
// the catalog, in a store that is thrown away.
func (a *app) withRegistry(cmd *cobra.Command, fn func(ctx context.Context, p *carebus.Platform) error) (err error) {
	p, err := a.openExisting(cmd.Context(), cmd, reading())
	var missing *notFoundError
	if errors.As(err, &missing) {
		if a.store != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "no store at %s yet; the schemas are those of the catalog\n", shown(a.store))
		}
		dir, err := os.MkdirTemp("", "carebus-catalog-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if p, err = carebus.Open(cmd.Context(), "sqlite:"+filepath.Join(dir, "carebus.db"), nil); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return fn(cmd.Context(), p)
}

func (a *app) json() bool { return a.output == "json" }

// reading opens a store only to look at it.
func reading() *carebus.Options { return &carebus.Options{ReadOnly: true} }

// confirm lets a destructive act pass: with --yes, or when a person at the terminal agrees. what says what would be done,
// with its count, and is shown in any case.
func (a *app) confirm(cmd *cobra.Command, yes bool, what string) error {
	errw := cmd.ErrOrStderr()
	fmt.Fprintln(errw, what)
	if yes {
		return nil
	}
	if !isTerminal(a.stdin) || !isTerminal(errw) {
		return usagef("nothing was done; add --yes to do it")
	}
	fmt.Fprint(errw, "Go on? [y/N] ")
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return usagef("nothing was done")
	}
	return nil
}

// actor is the person who runs the command, as the audit names them.
func actor() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "operator"
}

// printJSON writes one indented document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// numberForm is what a column of numbers holds; a version is none.
var numberForm = regexp.MustCompile(`^([-+]?[0-9][0-9,]*(\.[0-9]+)?%?|-|)$`)

// table writes rows for people; columns that are numbers throughout are aligned to the right.
func (a *app) table(w io.Writer, header []string, rows [][]string) error {
	right := make([]bool, len(header))
	for c := range header {
		right[c] = len(rows) > 0
		for _, r := range rows {
			if c < len(r) && !numberForm.MatchString(r[c]) {
				right[c] = false
			}
		}
	}
	t := table.New().Border(lipgloss.HiddenBorder()).BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).
		BorderColumn(false).Headers(header...).Rows(rows...).StyleFunc(func(row, col int) lipgloss.Style {
		s := lipgloss.NewStyle().PaddingRight(2)
		if col < len(right) && right[col] {
			s = s.Align(lipgloss.Right)
		}
		if row == table.HeaderRow {
			s = s.Bold(true)
		}
		return s
	})
	lines := strings.Split(t.Render(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	_, err := lipgloss.Fprintln(w, strings.Join(lines, "\n")) // Fprintln drops colours where w is no terminal
	return err
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
