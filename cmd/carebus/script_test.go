package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"carebus": main})
}

// TestScripts runs testdata/script/*.txtar: command lines, what they print, and how they end. "exits CODE carebus …" is
// a command that must end with that code.
//
// "until REGEX carebus …" runs a command again and again until what it prints fits.
func TestScripts(t *testing.T) {
	server := os.Getenv("CAREBUS_TEST_POSTGRES")
	if server != "" {
		server = storetest.Schema(t, server) // which one script uses
	}
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kafka.Close) // not deferred: the scripts run in parallel, when this function has returned
	testscript.Run(t, testscript.Params{
		Condition: func(cond string) (bool, error) {
			if cond == "postgres" {
				return server != "", nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("CAREBUS_UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("CAREBUS_STORE", "sqlite:"+filepath.Join(env.WorkDir, "store", "test.db"))
			env.Setenv("NO_COLOR", "1")
			env.Setenv("POSTGRES", server)
			env.Setenv("CAREBUS_KAFKA", strings.Join(kafka.ListenAddrs(), ","))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) < 2 {
					ts.Fatalf("usage: exits CODE COMMAND [ARG]...")
				}
				exits(ts, args[0], args[1], args[2:])
			},
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) < 2 {
					ts.Fatalf("usage: until REGEX COMMAND [ARG]...")
				}
				wanted := regexp.MustCompile(args[0])
				for {
					ts.Check(ts.Exec(args[1], args[2:]...))
					if wanted.MatchString(ts.ReadFile("stdout")) {
						return
					}
				}
			},
			"damage": func(ts *testscript.TestScript, _ bool, _ []string) { damage(ts) },
		},
	})
}

// damage changes one stored payload behind the store's back.
func damage(ts *testscript.TestScript) {
	db, err := sql.Open("sqlite", strings.TrimPrefix(ts.Getenv("CAREBUS_STORE"), "sqlite:"))
	ts.Check(err)
	_, err = db.Exec(`UPDATE events SET payload = CAST('{"patientId":"P2"}' AS BLOB) WHERE id = 'E-2'`)
	ts.Check(errors.Join(err, db.Close()))
}

// exits runs a command and demands its exit code. What it prints can be asked for as after exec.
func exits(ts *testscript.TestScript, code, command string, args []string) {
	err := ts.Exec(command, args...)
	got := 0
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		got = failed.ExitCode()
	case err != nil:
		ts.Fatalf("%s: %v", command, err)
	}
	if strconv.Itoa(got) != code {
		ts.Fatalf("%s ended with %d, want %s", command, got, code)
	}
}
