package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"

	"github.com/carebus/carebus/bus"
)

// ErrPolicy is a policy file that cannot be used; the error's text says where and why.
var ErrPolicy = errors.New("policy")

// file is the policy file as it is written.
type file struct {
	Issuers    []issuerEntry     `yaml:"issuers"`
	Roles      map[string]grants `yaml:"roles"`
	Principals []principalEntry  `yaml:"principals"`
}

type issuerEntry struct {
	Issuer   string `yaml:"issuer"`
	Audience string `yaml:"audience"`
	KeysURL  string `yaml:"jwksURL"`
	KeysFile string `yaml:"jwksFile"`
	Claim    string `yaml:"claim"`
}

type grants struct {
	Publish   []string `yaml:"publish"`
	Subscribe []string `yaml:"subscribe"`
	Read      []string `yaml:"read"`
	Operate   []string `yaml:"operate"`
	Register  []string `yaml:"register"`
}

func (g grants) of(v Verb) []string {
	switch v {
	case Publish:
		return g.Publish
	case Subscribe:
		return g.Subscribe
	case Read:
		return g.Read
	case Operate:
		return g.Operate
	case Register:
		return g.Register
	}
	return nil
}

type principalEntry struct {
	Name         string   `yaml:"name"`
	Tokens       []string `yaml:"tokens"`
	Subjects     []string `yaml:"subjects"`
	Certificates []string `yaml:"certificates"`
	Roles        []string `yaml:"roles"`
	Rate         *struct {
		PerSecond float64 `yaml:"perSecond"`
		Burst     int     `yaml:"burst"`
	} `yaml:"rate"`
	grants `yaml:",inline"`
}

// policy is a policy file made ready.
type policy struct {
	names        map[string]*Principal
	tokens       map[[sha256.Size]byte]*Principal
	subjects     map[string]*Principal
	certificates map[string]*Principal
	issuers      map[string]*issuer
	keyFiles     []string // of issuers
}

const tokenHash = "sha256:"

// parse reads a policy file. dir is where the files that it names lie.
func parse(text []byte, dir string) (*policy, error) {
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s", ErrPolicy, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is more than one document in the file", ErrPolicy)
	}
	p := &policy{names: map[string]*Principal{}, tokens: map[[sha256.Size]byte]*Principal{}, subjects: map[string]*Principal{}, certificates: map[string]*Principal{}, issuers: map[string]*issuer{}}
	for k, e := range f.Issuers {
		is, err := newIssuer(e, dir)
		if err == nil && p.issuers[e.Issuer] != nil {
			err = errors.New("is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: issuer %d %q: %w", ErrPolicy, k+1, e.Issuer, err)
		}
		p.issuers[e.Issuer] = is
		if e.KeysFile != "" {
			p.keyFiles = append(p.keyFiles, inDir(dir, e.KeysFile))
		}
	}
	for name, role := range f.Roles {
		if err := role.check(); err != nil {
			return nil, fmt.Errorf("%w: role %q: %w", ErrPolicy, name, err)
		}
	}
	for k, e := range f.Principals {
		if err := p.add(e, f.Roles); err != nil {
			return nil, fmt.Errorf("%w: principal %d %q: %w", ErrPolicy, k+1, e.Name, err)
		}
	}
	return p, nil
}

func (g grants) check() error {
	for _, v := range Verbs() {
		for _, pattern := range g.of(v) {
			if err := bus.CheckPattern(pattern); err != nil {
				return fmt.Errorf("%s: %w", v, err)
			}
		}
	}
	return nil
}

func (p *policy) add(e principalEntry, roles map[string]grants) error {
	switch {
	case e.Name == "" || len(e.Name) > 128 || strings.ContainsFunc(e.Name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("give it a name of 1 to 128 visible ASCII characters")
	case p.names[e.Name] != nil:
		return errors.New("the name is there twice")
	case len(e.Tokens)+len(e.Subjects)+len(e.Certificates) == 0:
		return errors.New("it has no tokens, subjects or certificates, so nobody could be it")
	case len(e.Subjects) > 0 && len(p.issuers) == 0:
		return errors.New("subjects need an issuer")
	}
	who := &Principal{Name: e.Name, grants: map[Verb][]string{}}
	p.names[e.Name] = who
	all := []grants{e.grants}
	for _, name := range e.Roles {
		role, ok := roles[name]
		if !ok {
			return fmt.Errorf("there is no role %q", name)
		}
		all = append(all, role)
	}
	for _, g := range all {
		if err := g.check(); err != nil {
			return err
		}
		for _, v := range Verbs() {
			who.grants[v] = append(who.grants[v], g.of(v)...)
		}
	}
	if r := e.Rate; r != nil {
		if !(r.PerSecond > 0) || r.PerSecond > 1e9 || r.Burst < 0 {
			return errors.New("rate: give perSecond above 0, and a burst")
		}
		who.limiter = rate.NewLimiter(rate.Limit(r.PerSecond), max(r.Burst, int(r.PerSecond), 1))
	}
	for _, text := range e.Tokens {
		sum, err := hex.DecodeString(strings.TrimPrefix(text, tokenHash))
		if err != nil || len(sum) != sha256.Size || !strings.HasPrefix(text, tokenHash) {
			return errors.New("tokens: give \"sha256:\" and the 64 hexadecimal digits that carebus token new prints, never the token itself")
		}
		if err := claim(p.tokens, [sha256.Size]byte(sum), who); err != nil {
			return fmt.Errorf("tokens: %w", err)
		}
	}
	for _, s := range e.Subjects {
		if err := claim(p.subjects, s, who); err != nil || s == "" {
			return fmt.Errorf("subjects: %w", orEmpty(err))
		}
	}
	for _, s := range e.Certificates {
		if !strings.Contains(s, ":") { // a DNS name
			s = strings.ToLower(s)
		}
		if err := claim(p.certificates, s, who); err != nil || s == "" {
			return fmt.Errorf("certificates: %w", orEmpty(err))
		}
	}
	return nil
}

// claim gives a credential to a principal; it belongs to one only.
func claim[K comparable](of map[K]*Principal, key K, who *Principal) error {
	if other := of[key]; other != nil {
		return fmt.Errorf("one of them is %q's already", other.Name)
	}
	of[key] = who
	return nil
}

func orEmpty(err error) error {
	if err == nil {
		return errors.New("one of them is empty")
	}
	return err
}

// keep carries the rates that principals have used over from the policy before, where they are the same.
func (p *policy) keep(before *policy) {
	for name, who := range p.names {
		was := before.names[name]
		if was != nil && was.limiter != nil && who.limiter != nil && was.limiter.Limit() == who.limiter.Limit() && was.limiter.Burst() == who.limiter.Burst() {
			who.limiter = was.limiter
		}
	}
}
