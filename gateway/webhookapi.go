package gateway

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
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
	kept
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
					out.Body.Webhooks = append(out.Body.Webhooks, hookView{ID: s.ID, kept: s.kept})
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
			out := &hookOut{hookView{ID: s.ID, kept: s.kept}}
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
			GraceHours *float64 `json:"graceHours,omitempty" minimum:"0" maximum:"720" default:"24" doc:"How long the former keys sign too. 0 when one has become known to others."`
		}
	}
	register(g, huma.Operation{OperationID: "rotate-webhook", Method: http.MethodPost, Path: "/v1/webhooks/{id}/rotate", Tags: tags, Summary: "Make a new signing key",
		Description: "Until the grace ends every delivery carries the signatures of both keys, so that the receiver can change over at any time."},
		func(ctx context.Context, in *webhookRotateIn) (*hookOut, error) {
			if _, err := g.hookFor(ctx, in.ID); err != nil {
				return nil, err
			}
			return g.hooks.rotate(ctx, in.ID, time.Duration(*in.Body.GraceHours*float64(time.Hour)))
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
	c := callerOf(ctx)
	for _, s := range all {
		if s.ID == id && c.mayAllOf(auth.Subscribe, s.Patterns) {
			return s, nil
		}
	}
	if !c.MayAll(auth.Subscribe, "**") { // who may not see it does not learn whether it exists
		return stored{}, g.deny(ctx, auth.Subscribe, "webhook "+id)
	}
	return stored{}, notFound("no webhook has this id")
}

func (ws *webhooks) create(ctx context.Context, id string, set WebhookSettings) (*hookOut, error) {
	secret := newSecret()
	s, err := ws.write(ctx, id, true, func(tx *eventstore.Tx, s *stored) error {
		if s.ID != "" {
			return conflict("a webhook %s exists", id)
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_groups WHERE grp = $1`, webhookGroup+id).Scan(&n); err != nil {
			return err
		}
		if n > 0 { // its place and its parked keys would be the former one's
			return conflict("a webhook %s was deleted just now and is not forgotten yet; try again in a few seconds, or choose another id", id)
		}
		set.Start = startNow(tx, set.Start, "")
		s.kept, s.secrets = kept{set, callerOf(ctx).Name}, []hookSecret{{Key: secret}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := ws.load(ctx); err != nil {
		return nil, err
	}
	ws.g.appears(ctx, webhookGroup+id)
	return &hookOut{hookView{ID: id, kept: s.kept, Secret: secret}}, nil
}

func (ws *webhooks) change(ctx context.Context, id string, set WebhookSettings) (*hookOut, error) {
	s, err := ws.write(ctx, id, false, func(tx *eventstore.Tx, s *stored) error {
		if s.ID == "" {
			return notFound("no webhook has this id")
		}
		set.Start = startNow(tx, set.Start, s.Start)
		s.kept = kept{set, callerOf(ctx).Name}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &hookOut{hookView{ID: id, kept: s.kept}}, ws.load(ctx)
}

// maxKeys is how many signing keys a webhook has at once; of more, the oldest end early.
const maxKeys = 5

func (ws *webhooks) rotate(ctx context.Context, id string, grace time.Duration) (*hookOut, error) {
	secret := newSecret()
	s, err := ws.write(ctx, id, true, func(_ *eventstore.Tx, s *stored) error {
		if s.ID == "" {
			return notFound("no webhook has this id")
		}
		now := time.Now()
		keys := []hookSecret{{Key: secret}}
		for _, old := range s.secrets {
			if end := now.Add(grace); old.Until.IsZero() || old.Until.After(end) {
				old.Until = end
			}
			if old.Until.After(now) && len(keys) < maxKeys {
				keys = append(keys, old)
			}
		}
		s.secrets = keys
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &hookOut{hookView{ID: id, kept: s.kept, Secret: secret}}, ws.load(ctx)
}

// write changes a webhook, or makes it (its ID is empty then), and stores the event that tells of it.
func (ws *webhooks) write(ctx context.Context, id string, rotated bool, change func(tx *eventstore.Tx, s *stored) error) (s stored, err error) {
	err = ws.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		s = stored{}
		var settings, keys string
		err := tx.QueryRowContext(ctx, `SELECT settings, secrets FROM carebus_webhooks WHERE id = $1`, id).Scan(&settings, &keys)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		default:
			s.ID = id
			if err := errors.Join(json.Unmarshal([]byte(settings), &s.kept), json.Unmarshal([]byte(keys), &s.secrets)); err != nil {
				return fmt.Errorf("webhook %s: %w", id, err)
			}
		}
		if err := change(tx, &s); err != nil {
			return err
		}
		text, err1 := json.Marshal(s.kept)
		keyText, err2 := json.Marshal(s.secrets)
		u, err3 := url.Parse(s.URL)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_webhooks (id, settings, secrets, updated_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, secrets = excluded.secrets, updated_at = excluded.updated_at`, id, string(text), string(keyText), tx.Now().UnixMicro()); err != nil {
			return err
		}
		u.RawQuery = "" // it may hold a credential
		told := platform.WebhookRegisteredV1.New(bus.Source, platform.WebhookRegistered{
			WebhookID: id, URL: u.String(), Patterns: s.Patterns, Actor: callerOf(ctx).Name, KeyRotated: &rotated,
		})
		told.PartitionKey = id
		_, err = tx.Append(ctx, "", eventstore.AnyVersion, told)
		return err
	})
	return s, err
}

func (ws *webhooks) remove(ctx context.Context, id string, a bus.Act) error {
	told := platform.WebhookRemovedV1.New(bus.Source, platform.WebhookRemoved{WebhookID: id, Reason: a.Reason, Actor: a.Actor})
	told.PartitionKey = id
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
	ws.loading.Lock()
	err = ws.leave(ctx, id)
	ws.log.forget(id)
	ws.loading.Unlock()
	if err != nil {
		return err
	}
	err = ws.g.p.Bus().Remove(ctx, webhookGroup+id, a)
	if errors.Is(err, bus.ErrNoGroup) || errors.Is(err, bus.ErrHasMembers) { // other gateways leave within seconds, and then sweep
		return nil
	}
	return err
}
