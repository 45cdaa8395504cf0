package payer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/carebus/carebus/catalog/priorauth"
)

// format is the value of "format" that this package reads.
const format = "carebus.payer-rules/1"

// maxFile bounds a rule file; the largest real ones have a few thousand rules.
const maxFile = 16 << 20

// The types below are the file as it is written; see the package comment. Pointers tell an absent member from a zero.
type ruleFile struct {
	Format     string              `json:"format"`
	ID         string              `json:"id"`
	Version    string              `json:"version"`
	Note       string              `json:"note"`
	Sets       map[string][]string `json:"sets"`
	Rules      []ruleEntry         `json:"rules"`
	Clocks     []clockEntry        `json:"clocks"`
	Appeals    []appealEntry       `json:"appeals"`
	Dispensing []dispensingEntry   `json:"dispensing"`
}

type ruleEntry struct {
	ID             string         `json:"id"`
	Version        string         `json:"version"`
	Title          string         `json:"title"`
	Benefit        Benefit        `json:"benefit"`
	Drugs          []string       `json:"drugs"`
	PARequiredWhen string         `json:"paRequiredWhen"`
	Exempt         []exemptEntry  `json:"exempt"`
	MissingInfo    []missingEntry `json:"missingInfo"`
	Criteria       []reasonEntry  `json:"criteria"`
	Modify         []modifyEntry  `json:"modify"`
	Approve        approveEntry   `json:"approve"`
	Sources        []string       `json:"sources"`
}

type exemptEntry struct {
	ID   string `json:"id"`
	When string `json:"when"`
}

type missingEntry struct {
	ID       string `json:"id"`
	Field    string `json:"field"`
	When     string `json:"when"`
	Ask      string `json:"ask"`
	DueHours int    `json:"dueHours"` // 0: the decision deadline
}

type reasonEntry struct {
	ID         string `json:"id"`
	When       string `json:"when"`
	ReasonCode string `json:"reasonCode"`
	Reason     string `json:"reason"`
}

type modifyEntry struct {
	reasonEntry
	Set struct {
		Quantity   *float64 `json:"quantity"`
		DaysSupply *int64   `json:"daysSupply"`
		Refills    *int64   `json:"refills"`
		Months     *int     `json:"months"`
	} `json:"set"`
}

type approveEntry struct {
	Months   int           `json:"months"`
	Quantity quantityEntry `json:"quantity"`
}

type quantityEntry struct {
	Amount  float64 `json:"amount"`
	PerDays int64   `json:"perDays"` // 0: for each fill
	Unit    string  `json:"unit"`
}

type clockEntry struct {
	LineOfBusiness      string            `json:"lineOfBusiness"`
	Benefit             Benefit           `json:"benefit"`
	Urgency             priorauth.Urgency `json:"urgency"`
	Hours               int               `json:"hours"`
	RemindHoursBefore   int               `json:"remindHoursBefore"`
	EscalateHoursBefore int               `json:"escalateHoursBefore"`
	Source              string            `json:"source"`
}

type appealEntry struct {
	LineOfBusiness     string                  `json:"lineOfBusiness"`
	Days               int                     `json:"days"`
	Channel            priorauth.AppealChannel `json:"channel"`
	Address            string                  `json:"address"`
	Instructions       string                  `json:"instructions"`
	ExpeditedAvailable bool                    `json:"expeditedAvailable"`
	PeerToPeer         struct {
		Name        string `json:"name"`
		PhoneNumber string `json:"phoneNumber"`
		Days        int    `json:"days"`
	} `json:"peerToPeer"`
	Source string `json:"source"`
}

type dispensingEntry struct {
	Payer               string `json:"payer"`
	PickupDays          int    `json:"pickupDays"`
	BusinessDays        bool   `json:"businessDays"`
	EmergencySupplyDays int    `json:"emergencySupplyDays"`
	Source              string `json:"source"`
}

// readFile decodes data. What it cannot read it reports at its place in the file.
func readFile(data []byte) (*ruleFile, *Problem) {
	if len(data) > maxFile {
		return nil, &Problem{Code: "too-large", Message: fmt.Sprintf("the file has more than %d MiB", maxFile>>20), Remedy: "split the rule set"}
	}
	if p := repeated(data); p != nil {
		return nil, p
	}
	var f ruleFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(&f)
	if err == nil {
		return &f, nil
	}
	p := at(data, d.InputOffset())
	p.Code, p.Message, p.Remedy = "json", strings.TrimPrefix(err.Error(), "json: "), "write it as the documentation of package payer shows"
	var wrong *json.UnmarshalTypeError
	switch name, unknown := strings.CutPrefix(p.Message, "unknown field "); {
	case errors.As(err, &wrong):
		p = at(data, wrong.Offset)
		p.Expression, p.Code, p.Remedy = wrong.Field, "type", "write it as the documentation of package payer shows"
		p.Message = "the member's type is " + strings.Fields(wrong.Value)[0] + ", which it may not be"
	case unknown:
		// The decoder has read on to the end. Where the name stands once, that is the place.
		if places := regexp.MustCompile(regexp.QuoteMeta(name)+`\s*:`).FindAllIndex(data, 2); len(places) == 1 {
			p = at(data, int64(places[0][0]))
		} else {
			p = &Problem{}
		}
		p.Code, p.Message, p.Remedy = "unknown-member", "the member "+name+" does not exist", "correct its name, or leave it out"
	}
	return nil, p
}

// repeated finds an object member that is written twice, and text that is not one JSON value. Decoding alone would keep
// the last of two code sets with one name, and nobody would know.
func repeated(data []byte) *Problem {
	type level struct {
		object bool
		key    bool // the next token is a member's name
		seen   map[string]bool
	}
	d := json.NewDecoder(bytes.NewReader(data))
	var stack []level
	for {
		token, err := d.Token()
		if err != nil {
			p := at(data, d.InputOffset())
			p.Code, p.Message, p.Remedy = "json", "the text is not JSON: "+err.Error(), "correct the text at this place"
			return p
		}
		top := len(stack) - 1
		if delim, ok := token.(json.Delim); ok {
			switch delim {
			case '{':
				if top >= 0 {
					stack[top].key = true
				}
				stack = append(stack, level{object: true, key: true, seen: map[string]bool{}})
			case '[':
				if top >= 0 {
					stack[top].key = true
				}
				stack = append(stack, level{})
			default:
				stack = stack[:top]
			}
		} else if top >= 0 && stack[top].object {
			l := &stack[top]
			if l.key {
				name, _ := token.(string)
				// Names are matched without regard to case when they are decoded, so they are compared so here.
				if fold := strings.ToLower(name); l.seen[fold] {
					p := at(data, d.InputOffset())
					p.Expression, p.Code, p.Message, p.Remedy = name, "repeated-member", "the member stands twice in one object", "keep one"
					return p
				}
				l.seen[strings.ToLower(name)] = true
			}
			l.key = !l.key
		}
		if len(stack) == 0 {
			if rest := bytes.TrimSpace(data[d.InputOffset():]); len(rest) > 0 {
				p := at(data, d.InputOffset())
				p.Code, p.Message, p.Remedy = "json", "text follows the end of the file's object", "remove it"
				return p
			}
			return nil
		}
	}
}

// at returns a problem with the position of an offset.
func at(data []byte, offset int64) *Problem {
	before := data[:min(offset, int64(len(data)))]
	return &Problem{Line: bytes.Count(before, []byte("\n")) + 1, Column: len(before) - bytes.LastIndexByte(before, '\n')}
}
