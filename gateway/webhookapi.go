package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// hookView is a webhook as it is answered.
type hookView struct {
	ID string `json:"id"`
	WebhookSettings
	Secret string           `json:"secret,omitempty" doc:"The signing key, which is shown only when it is made."`
	Group  *bus.GroupStatus `json:"group,omitempty" doc:"State, lag and parked keys."`
}

type hookOut struct{ Body hookView }

type hookID struct {
	ID string `path:"id" maxLength:"64"`
}

var hookName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

func (g *Gateway) webhookRoutes() {
	tags := []string{"webhooks"}
	type webhookCreateIn struct {
		Body struct {
			ID string `json:"id,omitempty" maxLength:"64" doc:"A name of lower-case letters, digits and hyphens. Default: a new id."`
			WebhookSettings
		}
	}
	register(g, huma.Operation{OperationID: "create-webhook", Method: http.MethodPost, Path: "/v1/webhooks", Tags: tags, Summary: "Have events pushed to an endpoint",
		Description: "Each event is posted by itself, signed under the Standard Webhooks specification (webhook-id, webhook-timestamp, webhook-signature); webhook-id is the event's id, by which a receiver tells a repetition. " +
			"Events of one partition key come in order: the next one when the one before was answered with 2xx. Addresses that are not on the public internet are refused. " +
			"The caller must be granted to subscribe to all that the patterns fit.", DefaultStatus: http.StatusCreated, Errors: []int{400, 401, 403, 409, 422, 429}},
		func(ctx context.Context, in *webhookCreateIn) (*hookOut, error) {
			id := in.Body.ID
			if id == "" {
				id = event.NewID()
			}
			if !hookName.MatchString(id) {
				return nil, badRequest("id: give lower-case letters, digits and hyphens, 64 at most")
			}
			if err := g.checkHook(ctx, in.Body.WebhookSettings); err != nil {
				return nil, err
			}
			return g.hooks.create(ctx, id, in.Body.WebhookSettings)
		})
	type webhookListOut struct {
		Body struct {
			Webhooks []hookView `json:"webhooks"`
		}
	}
	register(g, huma.Operation{OperationID: "list-webhooks", Method: http.MethodGet, Path: "/v1/webhooks", Tags: tags, Summary: "Webhooks", Description: "Those to all of whose events the caller may subscribe."},
		func(ctx context.Context, _ *struct{}) (*webhookListOut, error) {
			all, err := g.hooks.read(ctx)
			if err != nil {
				return nil, err
			}
			out := &webhookListOut{}
			out.Body.Webhooks = []hookView{}
			c := callerOf(ctx)
			for _, s := range all {
				if c.mayAllOf(auth.Subscribe, s.Patterns) {
					out.Body.Webhooks = append(out.Body.Webhooks, hookView{ID: s.ID, WebhookSettings: s.WebhookSettings})
				}
			}
			return out, nil
		})
	register(g, huma.Operation{OperationID: "get-webhook", Method: http.MethodGet, Path: "/v1/webhooks/{id}", Tags: tags, Summary: "One webhook"},
		func(ctx context.Context, in *hookID) (*hookOut, error) {
			s, err := g.hookFor(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			out := &hookOut{hookView{ID: s.ID, WebhookSettings: s.WebhookSettings}}
			status, err := g.p.Bus().Group(ctx, webhookGroup+s.ID)
			if err == nil {
				out.Body.Group = &status
			} else if errors.Is(err, bus.ErrNoGroup) { // it has not taken its first look yet
				err = nil
			}
			return out, err
		})
	type webhookPutIn struct {
		ID   string `path:"id" maxLength:"64"`
		Body WebhookSettings
	}
	register(g, huma.Operation{OperationID: "put-webhook", Method: http.MethodPut, Path: "/v1/webhooks/{id}", Tags: tags, Summary: "Change a webhook",
		Description: "Its place and its keys stay. start counts only when it is new.", Errors: []int{400, 401, 403, 404, 422, 429}},
		func(ctx context.Context, in *webhookPutIn) (*hookOut, error) {
			if _, err := g.hookFor(ctx, in.ID); err != nil {
				return nil, err
			}
			if err := g.checkHook(ctx, in.Body); err != nil {
				return nil, err
			}
			return g.hooks.change(ctx, in.ID, in.Body)
		})
	type webhookDeleteIn struct {
		ID     string `path:"id" maxLength:"64"`
		Reason string `query:"reason" maxLength:"1000" doc:"Why, for the audit."`
	}
	register(g, huma.Operation{OperationID: "delete-webhook", Method: http.MethodDelete, Path: "/v1/webhooks/{id}", Tags: tags, Summary: "Push no more",
		Description: "Its place, its parked keys and its delivery log are forgotten.", DefaultStatus: http.StatusNoContent, Errors: []int{400, 401, 403, 404, 409, 422, 429}},
		func(ctx context.Context, in *webhookDeleteIn) (*struct{}, error) {
			if _, err := g.hookFor(ctx, in.ID); err != nil {
				return nil, err
			}
			a := act(ctx, in.Reason)
			if a.Reason == "" {
				return nil, bus.ErrReason
			}
			return nil, g.hooks.remove(ctx, in.ID, a)
		})
	type webhookRotateIn struct {
		ID   string `path:"id" maxLength:"64"`
		Body struct {
			GraceHours float64 `json:"graceHours,omitempty" minimum:"0" maximum:"720" default:"24" doc:"How long the former key signs too."`
		}
	}
	register(g, huma.Operation{OperationID: "rotate-webhook", Method: http.MethodPost, Path: "/v1/webhooks/{id}/rotate", Tags: tags, Summary: "Make a new signing key",
		Description: "Until the grace ends every delivery carries the signatures of both keys, so that the receiver can change over at any time."},
		func(ctx context.Context, in *webhookRotateIn) (*hookOut, error) {
			if _, err := g.hookFor(ctx, in.ID); err != nil {
				return nil, err
			}
			return g.hooks.rotate(ctx, in.ID, time.Duration(in.Body.GraceHours*float64(time.Hour)))
		})
	type webhookTestOut struct{ Body delivery }
	register(g, huma.Operation{OperationID: "test-webhook", Method: http.MethodPost, Path: "/v1/webhooks/{id}/test", Tags: tags, Summary: "Post a test event and say how it went",
		Description: "An event of type platform.webhook.tested, signed like the others, which is not stored. The answer is 200 whatever the endpoint has said."},
		func(ctx context.Context, in *hookID) (*webhookTestOut, error) {
			s, err := g.hookFor(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			payload, err := json.Marshal(map[string]string{"webhookId": s.ID, "actor": callerOf(ctx).Name})
			if err != nil {
				return nil, err
			}
			e := event.Complete(ctx, event.Event{Metadata: event.Metadata{Type: "platform.webhook.tested", Source: bus.Source, Version: "1.0.0", PartitionKey: s.ID}, Payload: payload})
			sent := g.hooks.post(ctx, s.WebhookSettings, s.secrets, e, 1)
			g.hooks.log.add(entry{webhook: s.ID, EventID: e.ID, Type: e.Type, Attempt: 1, Status: sent.Status, Outcome: sent.Outcome, TookMs: sent.TookMs, At: sent.At})
			return &webhookTestOut{sent}, nil
		})
	type webhookLogIn struct {
		ID    string `path:"id" maxLength:"64"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type webhookLogOut struct {
		Body struct {
			Deliveries []entry `json:"deliveries" doc:"The newest first; the last 1000 are kept."`
		}
	}
	register(g, huma.Operation{OperationID: "list-deliveries", Method: http.MethodGet, Path: "/v1/webhooks/{id}/deliveries", Tags: tags, Summary: "The delivery log of a webhook"},
		func(ctx context.Context, in *webhookLogIn) (*webhookLogOut, error) {
			if _, err := g.hookFor(ctx, in.ID); err != nil {
				return nil, err
			}
			out := &webhookLogOut{}
			var err error
			out.Body.Deliveries, err = g.hooks.log.read(ctx, in.ID, in.Limit)
			return out, err
		})
}

// checkHook refuses settings that could not work or that the caller is not granted.
func (g *Gateway) checkHook(ctx context.Context, set WebhookSettings) error {
	if err := checkPatterns(set.Patterns); err != nil {
		return err
	}
	if err := g.mayAll(ctx, auth.Subscribe, set.Patterns...); err != nil {
		return err
	}
	if _, err := startOf(set.Start); err != nil {
		return err
	}
	return checkTarget(set.URL, g.hooks.o)
}

// hookFor is a webhook that the caller may manage.
func (g *Gateway) hookFor(ctx context.Context, id string) (stored, error) {
	all, err := g.hooks.read(ctx)
	if err != nil {
		return stored{}, err
	}
	for _, s := range all {
		if s.ID == id {
			return s, g.mayAll(ctx, auth.Subscribe, s.Patterns...)
		}
	}
	if !callerOf(ctx).MayAll(auth.Subscribe, "**") { // who may not see it does not learn whether it exists
		return stored{}, g.deny(ctx, auth.Subscribe, "webhook "+id)
	}
	return stored{}, notFound("no webhook has this id")
}

func (ws *webhooks) create(ctx context.Context, id string, set WebhookSettings) (*hookOut, error) {
	secrets := []hookSecret{{Key: newSecret()}}
	err := ws.write(ctx, set, id, true, secrets, true)
	if err != nil {
		return nil, err
	}
	return &hookOut{hookView{ID: id, WebhookSettings: set, Secret: secrets[0].Key}}, ws.load(ctx)
}

func (ws *webhooks) change(ctx context.Context, id string, set WebhookSettings) (*hookOut, error) {
	if err := ws.write(ctx, set, id, false, nil, false); err != nil {
		return nil, err
	}
	return &hookOut{hookView{ID: id, WebhookSettings: set}}, ws.load(ctx)
}

func (ws *webhooks) rotate(ctx context.Context, id string, grace time.Duration) (*hookOut, error) {
	all, err := ws.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.ID != id {
			continue
		}
		now := time.Now()
		secrets := []hookSecret{{Key: newSecret()}}
		for _, old := range s.secrets {
			if old.Until.IsZero() {
				old.Until = now.Add(grace)
			}
			if old.Until.After(now) {
				secrets = append(secrets, old)
			}
		}
		if err := ws.write(ctx, s.WebhookSettings, id, false, secrets, true); err != nil {
			return nil, err
		}
		return &hookOut{hookView{ID: id, WebhookSettings: s.WebhookSettings, Secret: secrets[0].Key}}, ws.load(ctx)
	}
	return nil, notFound("no webhook has this id")
}

// write stores a webhook, and the event that tells of it. Nil secrets stay as they are.
func (ws *webhooks) write(ctx context.Context, set WebhookSettings, id string, isNew bool, secrets []hookSecret, rotated bool) error {
	settings, err := json.Marshal(set)
	if err != nil {
		return err
	}
	keys, err := json.Marshal(secrets)
	if err != nil {
		return err
	}
	u, err := url.Parse(set.URL)
	if err != nil {
		return err
	}
	u.RawQuery = "" // it may hold a credential
	told := platform.WebhookRegisteredV1.New(bus.Source, platform.WebhookRegistered{
		WebhookID: id, URL: u.String(), Patterns: set.Patterns, Actor: callerOf(ctx).Name, KeyRotated: &rotated,
	})
	return ws.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_webhooks WHERE id = $1`, id).Scan(&n); err != nil {
			return err
		}
		now := tx.Now().UnixMicro()
		switch {
		case isNew && n > 0:
			return conflict("a webhook %s exists", id)
		case isNew:
			_, err = tx.ExecContext(ctx, `INSERT INTO carebus_webhooks (id, settings, secrets, updated_at) VALUES ($1, $2, $3, $4)`, id, string(settings), string(keys), now)
		case n == 0:
			return notFound("no webhook has this id")
		case secrets == nil:
			_, err = tx.ExecContext(ctx, `UPDATE carebus_webhooks SET settings = $1, updated_at = $2 WHERE id = $3`, string(settings), now, id)
		default:
			_, err = tx.ExecContext(ctx, `UPDATE carebus_webhooks SET settings = $1, secrets = $2, updated_at = $3 WHERE id = $4`, string(settings), string(keys), now, id)
		}
		if err != nil {
			return err
		}
		_, err = tx.Append(ctx, "", eventstore.AnyVersion, told)
		return err
	})
}

func (ws *webhooks) remove(ctx context.Context, id string, a bus.Act) error {
	told := platform.WebhookRemovedV1.New(bus.Source, platform.WebhookRemoved{WebhookID: id, Reason: a.Reason, Actor: a.Actor})
	err := ws.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		for _, statement := range []string{`DELETE FROM carebus_webhooks WHERE id = $1`, `DELETE FROM carebus_webhook_deliveries WHERE webhook = $1`} {
			if _, err := tx.ExecContext(ctx, statement, id); err != nil {
				return err
			}
		}
		_, err := tx.Append(ctx, "", eventstore.AnyVersion, told)
		return err
	})
	if err != nil {
		return err
	}
	if err := ws.leave(ctx, id); err != nil {
		return err
	}
	err = ws.g.p.Bus().Remove(ctx, webhookGroup+id, a)
	if errors.Is(err, bus.ErrNoGroup) || errors.Is(err, bus.ErrHasMembers) { // other gateways leave within seconds; what is left is a name
		return nil
	}
	return err
}
