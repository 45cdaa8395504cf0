package confluent_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/schema"
)

// TestConcurrentRegistration: many clients that register the same at once, over two handlers, make one version.
func TestConcurrentRegistration(t *testing.T) {
	p := carebustest.Open(t)
	servers := []*server{serve(t, p, nil), serve(t, p, nil)}
	servers[0].register(subject, doc("id"), "")
	const clients, kinds = 16, 3
	ids := make([]string, clients*kinds)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			members := append([]string{"id"}, []string{"a", "b", "c"}[:i%kinds+1]...) // each adds to the one before
			status, text, err := servers[i%2].try("POST", "/subjects/"+subject+"/versions", body(t, doc(members...), ""), nil)
			if err != nil {
				t.Error(err)
			}
			ids[i] = fmt.Sprint(status, " ", text)
		})
	}
	wg.Wait()
	// The order decides which of them fit: adding a member fits, taking one away does not. Whoever was let in got one id.
	versions := map[string]bool{}
	for i, got := range ids {
		if strings.HasPrefix(got, "409 ") {
			continue
		}
		if !strings.HasPrefix(got, "200 ") {
			t.Errorf("client %d: %s", i, got)
		}
		versions[fmt.Sprint(i%kinds, got)] = true
	}
	if len(versions) == 0 || len(versions) > kinds {
		t.Errorf("%d schemas got these ids: %v", kinds, versions)
	}
	if n := len(p.Registry().Versions(subject)); n != len(versions)+1 {
		t.Errorf("%d versions for %d schemas: %v", n, len(versions)+1, p.Registry().Versions(subject))
	}
	for _, path := range []string{"/schemas", "/subjects"} {
		_, a := servers[0].call("GET", path, "")
		servers[1].want("GET", path, "", 200, a)
	}
}

// TestConcurrentDelete: of many who delete at once, all are told that it is deleted, by themselves or before.
func TestConcurrentDelete(t *testing.T) {
	p := carebustest.Open(t)
	servers := []*server{serve(t, p, nil), serve(t, p, nil)}
	for _, path := range []string{"/subjects/" + subject + "/versions/1", "/subjects/" + subject} {
		servers[0].register(subject, doc("id"), "")
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				status, text, err := servers[i%2].try("DELETE", path, "", nil)
				if err != nil || status != 200 && !strings.Contains(text, "was soft deleted") {
					t.Errorf("%s: %d %s %v", path, status, text, err)
				}
			})
		}
		wg.Wait()
		servers[1].refused("GET", "/subjects/"+subject+"/versions", "", 40401)
	}
}

// TestRestart: ids, numbers, texts and what is deleted outlive the process, and a new store gives the same ids to the
// same history.
func TestRestart(t *testing.T) {
	ctx := context.Background()
	everything := func(file string, register bool) string {
		p, err := carebus.Open(ctx, "sqlite:"+file, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}()
		s := serve(t, p, nil)
		if register {
			s.register(subject, doc("id"), "")
			s.register("lab.result.filed", doc("file"), "")
			s.register(subject, doc("id", "value"), "")
			s.want("DELETE", "/subjects/"+subject+"/versions/1", "", 200, "1")
		}
		_, all := s.call("GET", "/schemas?deleted=true", "")
		_, seen := s.call("GET", "/schemas", "")
		return all + "\n" + seen
	}
	file := filepath.Join(t.TempDir(), "a.db")
	before := everything(file, true)
	if after := everything(file, false); after != before {
		t.Errorf("after a restart\n%s\nbefore\n%s", after, before)
	}
	if !strings.Contains(before, `"id":1,`) {
		t.Error("ids do not begin at 1")
	}
}

// processes are two platforms, each with the API, over one store.
func processes(t *testing.T) (platforms []*carebus.Platform, servers []*server) {
	file := filepath.Join(t.TempDir(), "a.db")
	for range 2 {
		p, err := carebus.Open(t.Context(), "sqlite:"+file, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		platforms = append(platforms, p)
		servers = append(servers, serve(t, p, nil))
	}
	return platforms, servers
}

// TestProcessesAtOnce: processes that register the same schemas at once give each one id and one version.
func TestProcessesAtOnce(t *testing.T) {
	platforms, servers := processes(t)
	const types = 5
	var ids [2][types]string
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			for k := range types {
				name := fmt.Sprintf("lab.result.kind-%d", k)
				status, text, err := s.try("POST", "/subjects/"+name+"/versions", body(t, doc("id", "value"), ""), nil)
				if err != nil || status != 200 {
					t.Errorf("process %d: %d %s %v", i, status, text, err)
				}
				ids[i][k] = text
			}
		})
	}
	wg.Wait()
	if ids[0] != ids[1] {
		t.Errorf("the ids differ: %v %v", ids[0], ids[1])
	}
	for k := range types {
		n, err := platforms[0].Store().StreamVersion(t.Context(), schema.StreamOf(fmt.Sprintf("lab.result.kind-%d", k)))
		if err != nil || n != 1 {
			t.Errorf("type %d was registered %d times %v", k, n, err)
		}
	}
}

// TestOtherProcess: what one process registers another one serves, with the same ids.
func TestOtherProcess(t *testing.T) {
	platforms, servers := processes(t)
	tick := platforms[1].Store().Tick()
	id := servers[0].register(subject, doc("id"), "")
	for { // until the news is there
		if len(platforms[1].Registry().Versions(subject)) == 1 {
			break
		}
		var err error
		if tick, err = platforms[1].Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
		if err := platforms[1].Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	servers[1].want("GET", "/subjects/"+subject+"/versions/1", "", 200, versionJSON(t, subject, 1, id, "1.0.0", doc("id")))
}
