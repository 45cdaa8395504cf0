package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog"
)

// completeTypes offers the event types of the catalog.
func completeTypes(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	var out []string
	last := ""
	for _, e := range catalog.Entries() {
		if e.Type != last && strings.HasPrefix(e.Type, begun) {
			out = append(out, cobra.CompletionWithDesc(e.Type, e.Title))
		}
		last = e.Type
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completePatterns offers event types, and for each of their domains and entities the pattern of all below.
func completePatterns(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	types, directive := completeTypes(cmd, args, begun)
	out := types
	for _, e := range catalog.Entries() {
		for i, c := range e.Type {
			if c != '.' {
				continue
			}
			if pattern := e.Type[:i] + ".**"; strings.HasPrefix(pattern, begun) && !slices.Contains(out, pattern) {
				out = append(out, pattern)
			}
		}
	}
	return out, directive
}

// completeOne is f for the first argument only.
func completeOne(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, begun)
	}
}

// completeStored makes a completion out of names that the store knows; without a store it offers nothing.
func (a *app) completeStored(list func(cmd *cobra.Command, p *carebus.Platform, begun string) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) (out []string, _ cobra.ShellCompDirective) {
		p, err := a.openExisting(cmd.Context(), cmd, reading())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer func() { _ = p.Close() }()
		if out, err = list(cmd, p, begun); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
