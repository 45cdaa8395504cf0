package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

type groupIn struct {
	Group string `path:"group" maxLength:"128"`
}

type actIn struct {
	Group string `path:"group" maxLength:"128"`
	Body  reasonBody
}

type reasonBody struct {
	Reason string `json:"reason" maxLength:"1000" doc:"Why, for the audit."`
}

type statusOut struct{ Body bus.GroupStatus }

func (g *Gateway) groupRoutes() {
	type groupListOut struct {
		Body struct {
			Groups []bus.GroupStatus `json:"groups"`
		}
	}
	register(g, huma.Operation{OperationID: "list-groups", Method: http.MethodGet, Path: "/v1/groups", Tags: []string{"groups"}, Summary: "Groups: their state, lag, members and parked keys",
		Description: "Those of whose events the caller may read all."},
		func(ctx context.Context, _ *struct{}) (*groupListOut, error) {
			all, err := g.p.Bus().Groups(ctx)
			if err != nil {
				return nil, err
			}
			out := &groupListOut{}
			out.Body.Groups = []bus.GroupStatus{}
			c := callerOf(ctx)
			for _, s := range all {
				if c.mayAllOf(auth.Read, s.Patterns) {
					out.Body.Groups = append(out.Body.Groups, s)
				}
			}
			return out, nil
		})
	status := func(ctx context.Context, name string) (*statusOut, error) {
		s, err := g.p.Bus().Group(ctx, name)
		return &statusOut{s}, err
	}
	register(g, huma.Operation{OperationID: "get-group", Method: http.MethodGet, Path: "/v1/groups/{group}", Tags: []string{"groups"}, Summary: "One group"},
		func(ctx context.Context, in *groupIn) (*statusOut, error) {
			if err := g.mayGroup(ctx, auth.Read, in.Group); err != nil {
				return nil, err
			}
			return status(ctx, in.Group)
		})
	operate := func(id, path, summary, description string, do func(ctx context.Context, group string, a bus.Act) error) {
		register(g, huma.Operation{OperationID: id, Method: http.MethodPost, Path: path, Tags: []string{"groups"}, Summary: summary, Description: description},
			func(ctx context.Context, in *actIn) (*statusOut, error) {
				if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
					return nil, err
				}
				if strings.TrimSpace(in.Body.Reason) == "" {
					return nil, bus.ErrReason
				}
				if err := do(ctx, in.Group, act(ctx, in.Body.Reason)); err != nil {
					return nil, err
				}
				return status(ctx, in.Group)
			})
	}
	operate("pause-group", "/v1/groups/{group}/pause", "Pause a group", "Every member stops after what it has in hand, in all processes, until the group is resumed. Nothing is lost.", g.p.Bus().Pause)
	operate("resume-group", "/v1/groups/{group}/resume", "Resume a group", "A group that was paused, or has stopped itself, goes on where it was.", g.p.Bus().Resume)
	operate("cancel-replay", "/v1/groups/{group}/replay/cancel", "Cancel a replay", "The group goes on where it was before the replay.", g.p.Bus().CancelReplay)

	type groupDeleteIn struct {
		Group  string `path:"group" maxLength:"128"`
		Reason string `query:"reason" maxLength:"1000" doc:"Why, for the audit."`
	}
	register(g, huma.Operation{OperationID: "delete-group", Method: http.MethodDelete, Path: "/v1/groups/{group}", Tags: []string{"groups"}, Summary: "Forget a group",
		Description: "Its place and its parked keys are forgotten; the events stay. A group that a service handles is 409.", DefaultStatus: http.StatusNoContent,
		Errors: []int{400, 401, 403, 404, 409, 422, 429}},
		func(ctx context.Context, in *groupDeleteIn) (*struct{}, error) {
			if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
				return nil, err
			}
			if strings.TrimSpace(in.Reason) == "" {
				return nil, bus.ErrReason
			}
			return nil, g.groups.remove(ctx, in.Group, act(ctx, in.Reason))
		})
	g.moveRoutes()
	g.projectionRoutes()
}

func (c caller) mayAllOf(v auth.Verb, patterns []string) bool {
	for _, p := range patterns {
		if !c.MayAll(v, p) {
			return false
		}
	}
	return len(patterns) > 0 || c.MayAll(v, "**")
}

// remove forgets a group, and that clients consumed it.
func (cs *consumers) remove(ctx context.Context, name string, a bus.Act) error {
	// First the settings, so that other gateways leave too; until they have, the answer is a conflict.
	err := cs.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM carebus_http_groups WHERE grp = $1`, name)
		return err
	})
	if err != nil {
		return err
	}
	if err := cs.leave(ctx, name); err != nil {
		return err
	}
	return cs.g.p.Bus().Remove(ctx, name, a)
}

// moveRoutes move groups to other places in the log.
func (g *Gateway) moveRoutes() {
	type groupSeekIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			To     string `json:"to" doc:"beginning, end, an RFC 3339 time of recording, or PARTITION:OFFSET."`
			Reason string `json:"reason" maxLength:"1000" doc:"Why, for the audit."`
		}
	}
	register(g, huma.Operation{OperationID: "seek-group", Method: http.MethodPost, Path: "/v1/groups/{group}/seek", Tags: []string{"groups"}, Summary: "Move a group",
		Description: "Going back makes the group handle events again as if for the first time; going forward skips events for good."},
		func(ctx context.Context, in *groupSeekIn) (*statusOut, error) {
			if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
				return nil, err
			}
			to, err := g.targetOf("to", in.Body.To)
			if err != nil {
				return nil, err
			}
			if err := g.p.Bus().Seek(ctx, in.Group, to, act(ctx, in.Body.Reason)); err != nil {
				return nil, err
			}
			s, err := g.p.Bus().Group(ctx, in.Group)
			return &statusOut{s}, err
		})
	type groupReplayIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			From   string `json:"from" doc:"beginning, an RFC 3339 time of recording, or PARTITION:OFFSET."`
			To     string `json:"to,omitempty" default:"end" doc:"Where to end, in the same words, or end."`
			Reason string `json:"reason" maxLength:"1000" doc:"Why, for the audit."`
		}
	}
	register(g, huma.Operation{OperationID: "replay-group", Method: http.MethodPost, Path: "/v1/groups/{group}/replay", Tags: []string{"groups"}, Summary: "Let a group handle a part of the log again",
		Description: "The events are marked as replayed. Afterwards the group goes on where it was. The member replay of the group's status is the progress; cancel with /replay/cancel.", DefaultStatus: http.StatusAccepted},
		func(ctx context.Context, in *groupReplayIn) (*statusOut, error) {
			if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
				return nil, err
			}
			if _, err := g.p.Bus().Group(ctx, in.Group); err != nil {
				return nil, err
			}
			from, err := g.targetOf("from", in.Body.From)
			if err != nil {
				return nil, err
			}
			to, err := g.targetOf("to", in.Body.To)
			if err != nil {
				return nil, err
			}
			if err := g.p.Bus().Replay(ctx, in.Group, from, to, act(ctx, in.Body.Reason)); err != nil {
				return nil, err
			}
			s, err := g.p.Bus().Group(ctx, in.Group)
			return &statusOut{s}, err
		})
}

// targetOf reads a place in the log.
func (g *Gateway) targetOf(name, text string) (bus.Target, error) {
	switch text {
	case "beginning":
		return bus.Beginning(), nil
	case "end", "now":
		return bus.End(), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return bus.Since(t), nil
	}
	topic := ""
	if i := strings.LastIndexByte(text, '/'); i > 0 {
		topic, text = text[:i], text[i+1:]
	}
	part, offset, ok := strings.Cut(text, ":")
	p, err1 := strconv.Atoi(part)
	o, err2 := strconv.ParseInt(offset, 10, 64)
	if !ok || err1 != nil || err2 != nil || p < 0 || topic == "" && p >= g.p.Store().Partitions() || o < 0 {
		return bus.Target{}, badRequest("%s: give beginning, end, an RFC 3339 time, PARTITION:OFFSET with a partition below %d, or TOPIC/PARTITION:OFFSET of a group that reads topics", name, g.p.Store().Partitions())
	}
	if topic != "" {
		return bus.AtTopic(topic, p, o), nil
	}
	return bus.At(p, o), nil
}

// projectionRoutes show read models.
func (g *Gateway) projectionRoutes() {
	type projectionListOut struct {
		Body struct {
			Projections []projection.Status `json:"projections"`
		}
	}
	register(g, huma.Operation{OperationID: "list-projections", Method: http.MethodGet, Path: "/v1/projections", Tags: []string{"projections"}, Summary: "Read models: their generation, lag and builds",
		Description: "The caller must be granted to read everything."},
		func(ctx context.Context, _ *struct{}) (*projectionListOut, error) {
			if err := g.mayAll(ctx, auth.Read, "**"); err != nil {
				return nil, err
			}
			all, err := projection.List(ctx, g.p.Store())
			if err != nil {
				return nil, err
			}
			out := &projectionListOut{}
			out.Body.Projections = append([]projection.Status{}, all...)
			return out, nil
		})
	type projectionOneIn struct {
		Name string `path:"name" maxLength:"128"`
	}
	type projectionOneOut struct{ Body projection.Status }
	register(g, huma.Operation{OperationID: "get-projection", Method: http.MethodGet, Path: "/v1/projections/{name}", Tags: []string{"projections"}, Summary: "One read model"},
		func(ctx context.Context, in *projectionOneIn) (*projectionOneOut, error) {
			if err := g.mayAll(ctx, auth.Read, "**"); err != nil {
				return nil, err
			}
			s, err := projection.Get(ctx, g.p.Store(), in.Name)
			if errors.Is(err, projection.ErrNotFound) {
				err = notFound("no projection has this name")
			}
			return &projectionOneOut{s}, err
		})
}
