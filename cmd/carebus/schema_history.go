package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

func newSchemaDeprecateCommand(a *app) *cobra.Command {
	var reason, replacedBy string
	cmd := &cobra.Command{
		Use:   "deprecate TYPE[@VERSION] --reason TEXT",
		Short: "Mark a type, or one version of it, as not for new work",
		Long:  "Marks a version, or without a version the whole type, as not to be used for new events. Events of it are still accepted.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("--reason is empty; say why, people will read it")
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				t, v, _ := strings.Cut(args[0], "@")
				if err := p.DeprecateSchema(ctx, t, v, reason, replacedBy); err != nil {
					return err
				}
				doc, err := findSchema(p.Registry(), args[0])
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), schemaEntry{doc.Type, doc.Version, doc.Deprecated, doc.DeprecationReason, doc.ReplacedBy, doc.RegisteredBy, doc.Fingerprint, doc.Schema})
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "deprecated %s\n", args[0])
				return err
			})
		},
		ValidArgsFunction: a.completeSchemaTypes(),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().StringVar(&replacedBy, "replaced-by", "", "the event type to use instead")
	_ = cmd.MarkFlagRequired("reason")
	_ = cmd.RegisterFlagCompletionFunc("replaced-by", completeTypes)
	return cmd
}

// schemaAct is one event of a type's schema history.
type schemaAct struct {
	RecordedAt string `json:"recordedAt"`
	Act        string `json:"act"`               // "registered" or "deprecated"
	Version    string `json:"version,omitempty"` // empty for the whole type
	By         string `json:"by,omitempty"`
	Reason     string `json:"reason,omitempty"`
	ReplacedBy string `json:"replacedBy,omitempty"`
	EventID    string `json:"eventId"`
}

func newSchemaHistoryCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history TYPE",
		Short: "Show when the versions of a type came, and by whom",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				acts, rows := []schemaAct{}, [][]string{}
				q := eventstore.StreamQuery{Stream: schema.StreamOf(args[0]), From: 1, Limit: 200}
				for {
					records, err := p.Store().Stream(ctx, q)
					if errors.Is(err, eventstore.ErrNotFound) {
						_, err = p.Registry().Latest(args[0])
						if err == nil {
							err = notFoundf("no schema of %s is registered in this store", args[0])
						}
					}
					if err != nil {
						return err
					}
					for _, r := range records {
						act, err := actOf(r)
						if err != nil {
							return err
						}
						acts = append(acts, act)
						rows = append(rows, []string{act.RecordedAt, act.Act, act.Version, act.By, act.Reason, act.ReplacedBy})
					}
					if len(records) < q.Limit {
						break
					}
					q.From = records[len(records)-1].StreamVersion + 1
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), acts)
				}
				return a.table(cmd.OutOrStdout(), []string{"recorded", "act", "version", "by", "reason", "replaced by"}, rows)
			})
		},
		ValidArgsFunction: a.completeSchemaTypes(),
	}
}

func actOf(r eventstore.Record) (schemaAct, error) {
	var p struct {
		Version      string `json:"version"`
		RegisteredBy string `json:"registeredBy"`
		Reason       string `json:"reason"`
		ReplacedBy   string `json:"replacedBy"`
	}
	if err := json.Unmarshal(r.Payload, &p); err != nil {
		return schemaAct{}, fmt.Errorf("event %s: %w", r.ID, err)
	}
	return schemaAct{
		RecordedAt: micros6(r.RecordedAt), Act: r.Type[strings.LastIndexByte(r.Type, '.')+1:], Version: p.Version,
		By: p.RegisteredBy, Reason: p.Reason, ReplacedBy: p.ReplacedBy, EventID: r.ID,
	}, nil
}
