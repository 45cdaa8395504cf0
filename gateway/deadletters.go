package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// LetterFilter chooses dead letters. Empty members choose all.
type LetterFilter struct {
	Group string `query:"group" json:"group,omitempty" maxLength:"128"`
	Key   string `query:"key" json:"key,omitempty" maxLength:"256"`
	Class string `query:"class" json:"class,omitempty" enum:"dependency,permanent,suspect"`
	Type  string `query:"type" json:"type,omitempty" maxLength:"255" doc:"Where an event of this type failed."`
	Error string `query:"error" json:"error,omitempty" maxLength:"500" doc:"Where the error text has this part."`
}

func (f LetterFilter) bus() bus.Filter {
	return bus.Filter{Group: f.Group, Key: f.Key, Class: bus.Class(f.Class), EventType: f.Type, Error: f.Error}
}

// mayFilter checks that the caller may do something with every dead letter that a filter chooses.
func (g *Gateway) mayFilter(ctx context.Context, v auth.Verb, f LetterFilter) error {
	if f.Group == "" {
		return g.mayAll(ctx, v, "**")
	}
	return g.mayGroup(ctx, v, f.Group)
}

// hide masks an error text, which may hold protected values, as the schema of the event that tells of it does.
func (g *Gateway) hide(text string) string {
	if text == "" {
		return ""
	}
	payload, err := json.Marshal(map[string]string{"error": text})
	if err != nil {
		return "•••"
	}
	var shown struct {
		Error string `json:"error"`
	}
	told := event.Event{Metadata: event.Metadata{Type: platform.KeyParkedV1.Type(), Version: platform.KeyParkedV1.Version()}, Payload: payload}
	if err := json.Unmarshal(g.p.Registry().Mask(told), &shown); err != nil {
		return "•••"
	}
	return shown.Error
}

// revealed is an event of which something protected is shown.
type revealed struct{ id, eventType string }

// tellRevealed records that the caller is shown error texts, before they are.
func (g *Gateway) tellRevealed(ctx context.Context, shown []revealed) error {
	if len(shown) == 0 {
		return nil
	}
	events := make([]event.Event, len(shown))
	for i, s := range shown {
		events[i] = platform.FieldRevealedV1.New(bus.Source, platform.FieldRevealed{
			EventID: s.id, EventType: &s.eventType, Fields: []string{"/error"}, Actor: callerOf(ctx).Name, RevealedAt: time.Now(),
		})
		events[i].PartitionKey = s.id
	}
	_, err := g.p.Store().Append(ctx, "", eventstore.AnyVersion, events...)
	return err
}

func revealedOf(letters []bus.DeadLetter) []revealed {
	out := make([]revealed, len(letters))
	for i, d := range letters {
		out[i] = revealed{d.EventID, d.EventType}
	}
	return out
}

// mayReveal checks that the caller may see error texts.
func (g *Gateway) mayReveal(ctx context.Context, reveal bool, f LetterFilter) error {
	if !reveal {
		return nil
	}
	return g.mayFilter(ctx, auth.Operate, f)
}

func (g *Gateway) deadLetterRoutes() {
	type letterListIn struct {
		LetterFilter
		Limit  int  `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Reveal bool `query:"reveal" doc:"Show error texts, which may hold protected values. The caller must be granted to operate."`
	}
	type letterListOut struct {
		Body struct {
			DeadLetters []bus.DeadLetter `json:"deadLetters" doc:"The longest parked first."`
			More        bool             `json:"more,omitempty"`
		}
	}
	const scope = "With group, the caller must be granted its event types; without, all."
	register(g, huma.Operation{OperationID: "list-dead-letters", Method: http.MethodGet, Path: "/v1/dead-letters", Tags: []string{"dead letters"}, Summary: "Parked keys",
		Description: "A key is parked when an event of it failed for good: that event and the later ones of the key wait, in order, while all others go on. " + scope},
		func(ctx context.Context, in *letterListIn) (*letterListOut, error) {
			if err := g.mayFilter(ctx, auth.Read, in.LetterFilter); err != nil {
				return nil, err
			}
			if err := g.mayReveal(ctx, in.Reveal || in.Error != "", in.LetterFilter); err != nil {
				return nil, err
			}
			letters, err := g.letters(ctx, in.LetterFilter, in.Limit+1)
			if err != nil {
				return nil, err
			}
			out := &letterListOut{}
			if out.Body.More = len(letters) > in.Limit; out.Body.More {
				letters = letters[:in.Limit]
			}
			if in.Reveal {
				if err := g.tellRevealed(ctx, revealedOf(letters)); err != nil {
					return nil, err
				}
			}
			for i := range letters {
				if !in.Reveal {
					letters[i].Error = g.hide(letters[i].Error)
				}
			}
			out.Body.DeadLetters = letters
			return out, nil
		})

	type letterKindOf struct {
		Group     string    `json:"group"`
		EventType string    `json:"eventType"`
		Class     bus.Class `json:"class"`
		Error     string    `json:"error"`
		Keys      int       `json:"keys"`
		Events    int64     `json:"events"`
		First     time.Time `json:"first" doc:"When the first of them was parked."`
		Last      time.Time `json:"last"`
	}
	type letterByErrorOut struct {
		Body struct {
			Errors []*letterKindOf `json:"errors" doc:"The most frequent first."`
			More   bool            `json:"more,omitempty" doc:"Only the 10,000 longest parked keys were looked at."`
		}
	}
	register(g, huma.Operation{OperationID: "group-dead-letters", Method: http.MethodGet, Path: "/v1/dead-letters/by-error", Tags: []string{"dead letters"}, Summary: "Parked keys, grouped by what went wrong",
		Description: "Digits in error texts are taken to be the same. " + scope},
		func(ctx context.Context, in *letterListIn) (*letterByErrorOut, error) {
			if err := g.mayFilter(ctx, auth.Read, in.LetterFilter); err != nil {
				return nil, err
			}
			if err := g.mayReveal(ctx, in.Reveal || in.Error != "", in.LetterFilter); err != nil {
				return nil, err
			}
			const most = 10_000
			letters, err := g.letters(ctx, in.LetterFilter, most+1)
			if err != nil {
				return nil, err
			}
			out := &letterByErrorOut{}
			if out.Body.More = len(letters) > most; out.Body.More {
				letters = letters[:most]
			}
			out.Body.Errors = []*letterKindOf{}
			kinds := map[letterKindOf]*letterKindOf{}
			examples := []bus.DeadLetter{} // of each kind, the one whose text is shown
			for _, d := range letters {
				shape := letterKindOf{Group: d.Group, EventType: d.EventType, Class: d.Class, Error: withoutDigits(d.Error)}
				k := kinds[shape]
				if k == nil {
					kept := shape
					k = &kept
					k.First = d.ParkedAt
					if !in.Reveal {
						k.Error = g.hide(k.Error)
					}
					kinds[shape] = k
					examples = append(examples, d)
					out.Body.Errors = append(out.Body.Errors, k)
				}
				k.Keys++
				k.Events += d.Events
				k.Last = d.ParkedAt
			}
			slices.SortStableFunc(out.Body.Errors, func(a, b *letterKindOf) int { return cmp.Compare(b.Keys, a.Keys) })
			out.Body.Errors = out.Body.Errors[:min(len(out.Body.Errors), in.Limit)]
			if in.Reveal {
				if err := g.tellRevealed(ctx, revealedOf(examples)); err != nil {
					return nil, err
				}
			}
			return out, nil
		})

	type letterShowIn struct {
		Group   string `path:"group" maxLength:"128"`
		Key     string `path:"key" maxLength:"256"`
		Payload string `query:"payload" enum:"full,masked,none" default:"masked"`
		Reveal  bool   `query:"reveal" doc:"Show the error text. The caller must be granted to operate."`
	}
	type letterShowOut struct {
		Body struct {
			bus.DeadLetter
			Waiting []record `json:"waiting" doc:"The event that failed, and those behind it."`
			More    bool     `json:"more,omitempty" doc:"Others wait behind these. 50 at most are listed, of the next 20,000 places of the partition."`
		}
	}
	register(g, huma.Operation{OperationID: "get-dead-letter", Method: http.MethodGet, Path: "/v1/dead-letters/{group}/{key}", Tags: []string{"dead letters"}, Summary: "A parked key: the failed event, why, and what waits behind it"},
		func(ctx context.Context, in *letterShowIn) (*letterShowOut, error) {
			if err := g.mayGroup(ctx, auth.Read, in.Group); err != nil {
				return nil, err
			}
			if err := g.mayReveal(ctx, in.Reveal, LetterFilter{Group: in.Group}); err != nil {
				return nil, err
			}
			out := &letterShowOut{}
			records, more, err := g.letter(ctx, in.Group, in.Key, &out.Body.DeadLetter, 50)
			if err != nil {
				return nil, err
			}
			out.Body.More = more
			for _, r := range records {
				out.Body.Waiting = append(out.Body.Waiting, g.show(r, in.Payload))
			}
			if in.Reveal {
				if err := g.tellRevealed(ctx, revealedOf([]bus.DeadLetter{out.Body.DeadLetter})); err != nil {
					return nil, err
				}
			} else {
				out.Body.DeadLetter.Error = g.hide(out.Body.DeadLetter.Error)
			}
			return out, nil
		})
	g.settleRoutes()
	g.redriveRoutes()
}

// letters reads dead letters, those of types that the caller may read: "**" does not stand for the platform's own events, and
// a group may have consumed other types once than it does now.
func (g *Gateway) letters(ctx context.Context, f LetterFilter, limit int) ([]bus.DeadLetter, error) {
	letters, err := g.p.Bus().DeadLetters(ctx, f.bus(), limit)
	c := callerOf(ctx)
	return slices.DeleteFunc(letters, func(d bus.DeadLetter) bool { return !c.May(auth.Read, d.EventType) }), err
}

// letter reads a dead letter and its events: as many as limit, of a bounded part of the log, and whether more wait behind
// them. Its tail is the last event that waits.
func (g *Gateway) letter(ctx context.Context, group, key string, into *bus.DeadLetter, limit int) (records []eventstore.Record, more bool, err error) {
	letters, err := g.letters(ctx, LetterFilter{Group: group, Key: key}, 1)
	if err != nil {
		return nil, false, err
	}
	if len(letters) == 0 {
		return nil, false, notFound("group %s has no such parked key", group)
	}
	*into = letters[0]
	if records, err = g.p.Bus().Waiting(ctx, letters[0], limit); err != nil {
		return nil, false, err
	}
	n := len(records)
	return records, int64(n) < into.Events && (n == 0 || records[n-1].Offset < into.Tail), nil
}

// withoutDigits is the shape of an error text.
func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '#'
		}
		return r
	}, text)
}

// settleRoutes settle one parked key.
func (g *Gateway) settleRoutes() {
	type letterSettleIn struct {
		Group string `path:"group" maxLength:"128"`
		Key   string `path:"key" maxLength:"256"`
		Body  reasonBody
	}
	settle := func(id, path, summary, description string, do func(ctx context.Context, group, key string, a bus.Act) error) {
		register(g, huma.Operation{OperationID: id, Method: http.MethodPost, Path: path, Tags: []string{"dead letters"}, Summary: summary, Description: description, DefaultStatus: http.StatusNoContent,
			Errors: []int{400, 401, 403, 404, 422, 429}},
			func(ctx context.Context, in *letterSettleIn) (*struct{}, error) {
				if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
					return nil, err
				}
				return nil, do(ctx, in.Group, in.Key, act(ctx, in.Body.Reason))
			})
	}
	settle("skip-dead-letter", "/v1/dead-letters/{group}/{key}/skip", "Give up the failed event", "For good; the events behind it are tried at once.", g.p.Bus().Skip)
	settle("discard-dead-letter", "/v1/dead-letters/{group}/{key}/discard", "Give up all that waits of a key", "For good. Later events of the key are handled again.", g.p.Bus().Discard)

	type letterCorrectIn struct {
		Group string `path:"group" maxLength:"128"`
		Key   string `path:"key" maxLength:"256"`
		Body  struct {
			Payload json.RawMessage `json:"payload" doc:"The whole payload, as it should have been."`
			Reason  string          `json:"reason" maxLength:"1000" doc:"Why, for the audit."`
		}
	}
	register(g, huma.Operation{OperationID: "correct-dead-letter", Method: http.MethodPost, Path: "/v1/dead-letters/{group}/{key}/correct", Tags: []string{"dead letters"}, Summary: "Have the failed event handled with another payload",
		Description:   "History is not edited: the correction is an event of its own, which names the one that it corrects; this group sees the corrected payload. The key is tried at once.",
		DefaultStatus: http.StatusNoContent, Errors: []int{400, 401, 403, 404, 422, 429}},
		func(ctx context.Context, in *letterCorrectIn) (*struct{}, error) {
			if err := g.mayGroup(ctx, auth.Operate, in.Group); err != nil {
				return nil, err
			}
			return nil, g.p.Bus().Correct(ctx, in.Group, in.Key, in.Body.Payload, act(ctx, in.Body.Reason))
		})
}

// redriveRoutes try many parked keys again, as jobs.
func (g *Gateway) redriveRoutes() {
	type letterRedriveIn struct {
		Body struct {
			LetterFilter
			Before        time.Time `json:"before,omitzero" doc:"Parked before: the bound that a preview has frozen. Default: now."`
			DryRun        bool      `json:"dryRun,omitempty" doc:"Only count, and check the failed events against their schemas."`
			Reason        string    `json:"reason,omitempty" maxLength:"1000" doc:"Why, for the audit. Not needed for a dry run."`
			KeysPerSecond float64   `json:"keysPerSecond,omitempty" minimum:"0" maximum:"100000" doc:"0 means all at once."`
			Keys          *int64    `json:"keys,omitempty" doc:"How many keys the preview has counted: when there are more, nothing is done, and the answer is 409."`
		}
	}
	type letterRedriveOut struct {
		Status int
		Body   struct {
			Preview *bus.Preview `json:"preview,omitempty"`
			Job     *bus.Job     `json:"job,omitempty"`
		}
	}
	register(g, huma.Operation{OperationID: "redrive", Method: http.MethodPost, Path: "/v1/dead-letters/redrive", Tags: []string{"dead letters"}, Summary: "Try parked keys again",
		Description: "Preview with dryRun, then repeat with its before and keys: what was parked in between is not swept in. The answer is a job.", DefaultStatus: http.StatusAccepted,
		Errors: []int{400, 401, 403, 404, 409, 422, 429}},
		func(ctx context.Context, in *letterRedriveIn) (*letterRedriveOut, error) {
			if err := g.mayFilter(ctx, auth.Operate, in.Body.LetterFilter); err != nil {
				return nil, err
			}
			f := in.Body.bus()
			f.Before = in.Body.Before
			out := &letterRedriveOut{Status: http.StatusOK}
			if in.Body.DryRun || in.Body.Keys != nil {
				preview, err := g.p.Bus().PreviewRedrive(ctx, f)
				if err != nil {
					return nil, err
				}
				out.Body.Preview = &preview
				if in.Body.DryRun {
					return out, nil
				}
				if preview.Keys > *in.Body.Keys {
					return nil, conflict("there are %d such keys now, not %d; look again", preview.Keys, *in.Body.Keys)
				}
				f.Before = preview.Before
			}
			job, err := g.p.Bus().Redrive(ctx, bus.Redrive{Filter: f, Act: act(ctx, in.Body.Reason), Rate: in.Body.KeysPerSecond})
			if err != nil {
				return nil, err
			}
			out.Status, out.Body.Job = http.StatusAccepted, &job
			return out, nil
		})

	type letterJobsIn struct {
		Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50"`
	}
	type letterJobsOut struct {
		Body struct {
			Jobs []bus.Job `json:"jobs" doc:"Newest first."`
		}
	}
	register(g, huma.Operation{OperationID: "list-jobs", Method: http.MethodGet, Path: "/v1/jobs", Tags: []string{"dead letters"}, Summary: "Jobs: redrives under way and ended",
		Description: "The caller must be granted to operate everything."},
		func(ctx context.Context, in *letterJobsIn) (*letterJobsOut, error) {
			if err := g.mayAll(ctx, auth.Operate, "**"); err != nil {
				return nil, err
			}
			jobs, err := g.p.Bus().Jobs(ctx, in.Limit)
			if err != nil {
				return nil, err
			}
			out := &letterJobsOut{}
			out.Body.Jobs = append([]bus.Job{}, jobs...)
			return out, nil
		})
	type letterJobIn struct {
		ID string `path:"id" maxLength:"64"`
	}
	type letterJobOut struct{ Body bus.Job }
	mayJob := func(ctx context.Context, id string) (bus.Job, error) {
		all := callerOf(ctx).MayAll(auth.Operate, "**")
		job, err := g.p.Bus().Job(ctx, id)
		switch {
		case err != nil && (all || !errors.Is(err, bus.ErrNoJob)):
			return job, err
		case all:
			return job, nil
		case err == nil && job.Group != "":
			status, gerr := g.p.Bus().Group(ctx, job.Group)
			if gerr != nil && !errors.Is(gerr, bus.ErrNoGroup) {
				return job, gerr
			}
			if gerr == nil && callerOf(ctx).mayAllOf(auth.Operate, status.Patterns) {
				return job, nil
			}
		}
		return bus.Job{}, g.deny(ctx, auth.Operate, "job "+id) // who may not see it does not learn whether it exists
	}
	register(g, huma.Operation{OperationID: "get-job", Method: http.MethodGet, Path: "/v1/jobs/{id}", Tags: []string{"dead letters"}, Summary: "The progress of a job"},
		func(ctx context.Context, in *letterJobIn) (*letterJobOut, error) {
			job, err := mayJob(ctx, in.ID)
			return &letterJobOut{job}, err
		})
	type letterJobCancelIn struct {
		ID   string `path:"id" maxLength:"64"`
		Body reasonBody
	}
	register(g, huma.Operation{OperationID: "cancel-job", Method: http.MethodPost, Path: "/v1/jobs/{id}/cancel", Tags: []string{"dead letters"}, Summary: "Cancel a job", Description: "Keys that have not been tried yet wait as before.",
		Errors: []int{400, 401, 403, 404, 422, 429}},
		func(ctx context.Context, in *letterJobCancelIn) (*letterJobOut, error) {
			if _, err := mayJob(ctx, in.ID); err != nil {
				return nil, err
			}
			if err := g.p.Bus().CancelJob(ctx, in.ID, act(ctx, in.Body.Reason)); err != nil {
				return nil, err
			}
			job, err := g.p.Bus().Job(ctx, in.ID)
			return &letterJobOut{job}, err
		})
}
