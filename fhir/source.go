package fhir

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is one input that can be read from its beginning any number of times: the import reads everything twice.
type source struct {
	name string // as problems and items name it
	open func() (io.ReadCloser, error)
	rank int // order of the second pass; see kindRank
}

// sources expands the paths to files, in a fixed order: paths as given, directories in lexical order. A path that
// cannot be read is a problem of its own and does not hide the others. The returned function removes what was
// buffered.
func (r *run) sources(paths []string) ([]*source, func(), error) {
	var out []*source
	var temps []*os.File
	release := func() {
		for _, f := range temps {
			f.Close()
			os.Remove(f.Name())
		}
	}
	for _, p := range paths {
		if p == "-" {
			f, err := buffer(r.o.Stdin, r.o.TempDir)
			if err != nil {
				release()
				return nil, nil, fmt.Errorf("fhir: buffer standard input: %w", err)
			}
			temps = append(temps, f)
			out = append(out, &source{name: "-", open: func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(f, 0, 1<<62)), nil
			}})
			continue
		}
		info, err := os.Stat(p)
		if err != nil {
			r.fileProblem(p, "", 0, pathReason(err))
			continue
		}
		if !info.IsDir() {
			out = append(out, fileSource(p))
			continue
		}
		err = filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				r.fileProblem(path, "", 0, pathReason(err))
				if d != nil && d.IsDir() {
					return fs.SkipDir
				}
			case path != p && strings.HasPrefix(d.Name(), "."):
				if d.IsDir() {
					return fs.SkipDir
				}
				r.report.Ignored++
			case d.IsDir():
			case d.Type().IsRegular() && carriesFHIR(d.Name()):
				out = append(out, fileSource(path))
			default:
				r.report.Ignored++
			}
			return nil
		})
		if err != nil {
			r.fileProblem(p, "", 0, pathReason(err))
		}
	}
	return out, release, nil
}

func fileSource(path string) *source {
	return &source{name: path, open: func() (io.ReadCloser, error) { return os.Open(path) }}
}

// pathReason says why a path failed without repeating it: the problem has it already.
func pathReason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// carriesFHIR says whether a file found in a directory is read. A file named by the user is always read.
func carriesFHIR(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".gz")
	return slices.Contains([]string{".json", ".ndjson", ".jsonl"}, filepath.Ext(name))
}

// buffer copies r to a temporary file, so that it can be read twice.
func buffer(r io.Reader, dir string) (*os.File, error) {
	f, err := tempFile(dir)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

// tempFile creates a file that only this user can read and, where the system lets it, unlinks it at once: it holds
// protected health information, and a killed process must not leave it behind.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "carebus-fhir-*")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}

// reader is the text of a source: unpacked, without byte order mark.
type reader struct {
	*bufio.Reader
	closers []io.Closer
	raw     *countingReader
}

func (r *reader) Close() {
	for _, c := range slices.Backward(r.closers) {
		c.Close()
	}
}

var errEmpty = errors.New("the file is empty")

// read opens a source. Packing is told by content, not by name.
func (s *source) read(ctx context.Context) (*reader, error) {
	f, err := s.open()
	if err != nil {
		return nil, errors.New(pathReason(err))
	}
	r := &reader{closers: []io.Closer{f}, raw: &countingReader{ctx: ctx, r: f}}
	r.Reader = bufio.NewReaderSize(r.raw, peekSize)
	if magic, _ := r.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(r.Reader)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("gzip: %w", err)
		}
		r.closers = append(r.closers, z)
		r.Reader = bufio.NewReaderSize(z, peekSize)
	}
	if mark, _ := r.Peek(3); string(mark) == "\xef\xbb\xbf" {
		_, _ = r.Discard(3) // they were peeked at: it cannot fail
	}
	if _, err := r.Peek(1); err != nil {
		defer r.Close()
		if errors.Is(err, io.EOF) {
			return nil, errEmpty
		}
		return nil, err
	}
	return r, nil
}

// countingReader counts what was really read from the source, and stops reading when the import is cancelled.
type countingReader struct {
	ctx context.Context
	r   io.Reader
	n   int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
