package main

import (
	"context"
	"errors"
	"strings"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/postgres"
)

// onServer reports whether a store's name is that of a store on a PostgreSQL server.
func onServer(name string) bool {
	return strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://")
}

// isStoreName reports whether a name says which engine it means.
func isStoreName(name string) bool {
	path, file := strings.CutPrefix(name, "sqlite:")
	return file && path != "" || onServer(name)
}

// shown is the name of a store as it may be told: without a password.
func shown(name string) string {
	if onServer(name) {
		return postgres.Redact(name)
	}
	return name
}

// onServerExists looks for a store without creating one.
func onServerExists(ctx context.Context, name string, o *carebus.Options) error {
	look := carebus.Options{ReadOnly: true}
	if o != nil {
		look.Logger = o.Logger
	}
	p, err := carebus.Open(ctx, name, &look)
	if errors.Is(err, eventstore.ErrNotFound) {
		return notFoundf("no store at %s; run carebus demo or carebus import first, or name another with --store", shown(name))
	}
	if err != nil {
		return err
	}
	return p.Close()
}
