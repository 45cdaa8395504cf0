package gateway

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
)

// sagaRoutes show sagas and help those that are stuck. A saga's instances hold the ids of entities; whoever looks must be
// granted the saga engine's events.
func (g *Gateway) sagaRoutes() {
	const events = "platform.saga.*"
	type sagaListIn struct {
		Saga   string `query:"saga" maxLength:"128"`
		Status string `query:"status" enum:"running,compensating,stuck,parked,completed,failed,cancelled"`
		After  string `query:"after" maxLength:"256" doc:"The last id of a former answer."`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Reveal bool   `query:"reveal" doc:"Show error texts. The caller must be granted to operate."`
	}
	type sagaListOut struct {
		Body struct {
			Sagas []saga.Instance `json:"sagas" doc:"By id."`
		}
	}
	tags := []string{"sagas"}
	register(g, huma.Operation{OperationID: "list-sagas", Method: http.MethodGet, Path: "/v1/sagas", Tags: tags, Summary: "Sagas", Description: "The caller must be granted to read " + events + "."},
		func(ctx context.Context, in *sagaListIn) (*sagaListOut, error) {
			if err := g.mayAll(ctx, auth.Read, events); err != nil {
				return nil, err
			}
			if in.Reveal {
				if err := g.mayAll(ctx, auth.Operate, events); err != nil {
					return nil, err
				}
			}
			all, err := saga.List(ctx, g.p.Store(), saga.Query{Saga: in.Saga, Status: saga.Status(in.Status), After: in.After, Limit: in.Limit})
			if err != nil {
				return nil, err
			}
			if in.Reveal {
				shown := []revealed{}
				for _, one := range all {
					if one.Error != "" {
						shown = append(shown, revealed{one.ID, "platform.saga.failed"})
					}
				}
				if err := g.tellRevealed(ctx, shown); err != nil {
					return nil, err
				}
			}
			for i := range all {
				if !in.Reveal {
					all[i].Error = g.hide(all[i].Error)
				}
			}
			out := &sagaListOut{}
			out.Body.Sagas = append([]saga.Instance{}, all...)
			return out, nil
		})
	type sagaOneIn struct {
		ID     string `path:"id" maxLength:"256"`
		Reveal bool   `query:"reveal" doc:"Show error texts. The caller must be granted to operate."`
	}
	type sagaOneOut struct{ Body saga.Detail }
	register(g, huma.Operation{OperationID: "get-saga", Method: http.MethodGet, Path: "/v1/sagas/{id}", Tags: tags, Summary: "One saga, with its steps"},
		func(ctx context.Context, in *sagaOneIn) (*sagaOneOut, error) {
			if err := g.mayAll(ctx, auth.Read, events); err != nil {
				return nil, err
			}
			if in.Reveal {
				if err := g.mayAll(ctx, auth.Operate, events); err != nil {
					return nil, err
				}
			}
			d, err := saga.Show(ctx, g.p.Store(), in.ID)
			if err != nil {
				return nil, err
			}
			if !in.Reveal {
				d.Error = g.hide(d.Error)
			} else if err := g.tellRevealed(ctx, []revealed{{d.ID, "platform.saga.failed"}}); err != nil {
				return nil, err
			}
			return &sagaOneOut{d}, nil
		})
	type sagaActIn struct {
		ID   string `path:"id" maxLength:"256"`
		Body reasonBody
	}
	operate := func(id, path, summary, description string, do func(ctx context.Context, store *eventstore.Store, id string, a saga.Act) error) {
		register(g, huma.Operation{OperationID: id, Method: http.MethodPost, Path: path, Tags: tags, Summary: summary, Description: description, DefaultStatus: http.StatusNoContent,
			Errors: []int{400, 401, 403, 404, 409, 422, 429}},
			func(ctx context.Context, in *sagaActIn) (*struct{}, error) {
				if err := g.mayAll(ctx, auth.Operate, events); err != nil {
					return nil, err
				}
				a := act(ctx, in.Body.Reason)
				return nil, do(ctx, g.p.Store(), in.ID, saga.Act{Actor: a.Actor, Reason: a.Reason})
			})
	}
	operate("resume-saga", "/v1/sagas/{id}/resume", "Try again what is stuck", "With all its tries anew; what rests after a failed try is tried without waiting.", saga.Resume)
	operate("skip-saga", "/v1/sagas/{id}/skip", "Go on as if what is stuck had been done", "A person has taken care of it.", saga.Skip)
	operate("cancel-saga", "/v1/sagas/{id}/cancel", "Undo what a saga has done", "In reverse. Calls under way are waited for.", saga.Cancel)
}
