package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// lines knows on which lines of a JSON text its parts begin.
type lines struct {
	at     map[string]int // by JSON pointer
	broken int            // the line at which it stops being JSON; 0 when it does not
}

func newLines(text []byte) lines {
	l := lines{at: map[string]int{"": 1}}
	line, read := 1, 0
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		_, err := dec.ReadToken()
		to := int(dec.InputOffset())
		var syntax *jsontext.SyntacticError
		if errors.As(err, &syntax) {
			to = int(syntax.ByteOffset)
		}
		line, read = line+bytes.Count(text[read:min(to, len(text))], []byte("\n")), min(to, len(text))
		if err != nil {
			if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				l.broken = line
			}
			return l
		}
		if p := string(dec.StackPointer()); l.at[p] == 0 { // of a member: where its name is
			l.at[p] = line
		}
	}
}

// of returns the line of a place, or of the nearest part around it that there is.
func (l lines) of(pointer string) int {
	for {
		if n := l.at[pointer]; n > 0 {
			return n
		}
		i := strings.LastIndexByte(pointer, '/')
		if i < 0 {
			return 1
		}
		pointer = pointer[:i]
	}
}

// git runs git in a folder and returns what it prints.
func git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(string(failed.Stderr)))
	}
	return out, err
}
