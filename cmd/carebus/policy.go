package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
)

func newTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make bearer tokens", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use:   "new",
		Short: "Make a bearer token for carebus serve",
		Long: `Makes a bearer token and prints it, once: it is kept nowhere. The policy file has its hash only, under tokens of the
principal whose it is; the hash lets nobody in.`,
		Example: `carebus token new
  TOKEN=$(carebus token new -o json | jq -r .token)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, hash := auth.NewToken()
			if a.json() {
				return printJSON(cmd.OutOrStdout(), struct {
					Token string `json:"token"`
					Hash  string `json:"hash"`
				}{token, hash})
			}
			return fields(cmd.OutOrStdout(), "token", token, "hash", hash)
		},
	})
	return cmd
}

func newPolicyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Check policy files", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newPolicyCheckCommand(a))
	return cmd
}

func newPolicyCheckCommand(a *app) *cobra.Command {
	var as, may string
	cmd := &cobra.Command{
		Use:   "check FILE [--as NAME [--may VERB TYPE]]",
		Short: "Check a policy file, and what it grants",
		Long: `Checks a policy file as carebus serve would read it. With --as it shows what a principal is granted; with --may VERB and an
event type, or a pattern of them, it says whether the principal may: yes, or no with exit code 1.
VERB is one of publish, subscribe, read, operate, register.`,
		Example: `carebus policy check policy.yaml
  carebus policy check policy.yaml --as pharmacy-service --may publish medication.prescription.filled`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			verb := auth.Verb(may)
			switch {
			case may != "" && as == "":
				return usagef("--may goes with --as")
			case may != "" && !slices.Contains(auth.Verbs(), verb):
				return usagef("--may %s: give publish, subscribe, read, operate or register", may)
			case (may != "") != (len(args) == 2):
				return usagef("--may VERB goes with an event type")
			}
			door, err := auth.Load(args[0])
			if errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "jwksFile") {
				return notFoundf("no policy file at %s", args[0])
			}
			if err != nil {
				return err
			}
			switch {
			case as == "":
				return a.printPrincipals(cmd, door)
			case door.Named(as) == nil:
				return notFoundf("the policy has no principal %s", as)
			case may == "":
				return a.printGrants(cmd, door.Named(as))
			}
			if err := bus.CheckPattern(args[1]); err != nil {
				return err
			}
			return a.printAnswer(cmd, door.Named(as), verb, args[1])
		},
	}
	cmd.Flags().StringVar(&as, "as", "", "a principal of the policy")
	cmd.Flags().StringVar(&may, "may", "", "what it wants to do: publish, subscribe, read, operate or register")
	return cmd
}

func (a *app) printPrincipals(cmd *cobra.Command, door *auth.Door) error {
	names := door.Names()
	if a.json() {
		return printJSON(cmd.OutOrStdout(), struct {
			Principals []string `json:"principals"`
		}{names})
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "the policy is valid; it has %d principals\n", len(names))
	for _, name := range names {
		fmt.Fprintln(cmd.OutOrStdout(), name)
	}
	return nil
}

func (a *app) printGrants(cmd *cobra.Command, p *auth.Principal) error {
	grants := map[auth.Verb][]string{}
	rows := []string{}
	for _, v := range auth.Verbs() {
		grants[v] = append([]string{}, p.Granted(v)...)
		shown := strings.Join(grants[v], " ")
		if shown == "" {
			shown = "-"
		}
		rows = append(rows, string(v), shown)
	}
	if a.json() {
		return printJSON(cmd.OutOrStdout(), struct {
			Principal string                 `json:"principal"`
			Grants    map[auth.Verb][]string `json:"grants"`
		}{p.Name, grants})
	}
	return fields(cmd.OutOrStdout(), rows...)
}

func (a *app) printAnswer(cmd *cobra.Command, p *auth.Principal, v auth.Verb, eventType string) error {
	may := p.May(v, eventType)
	if strings.Contains(eventType, "*") {
		may = p.MayAll(v, eventType)
	}
	var err error
	if a.json() {
		err = printJSON(cmd.OutOrStdout(), struct {
			Principal string    `json:"principal"`
			Verb      auth.Verb `json:"verb"`
			EventType string    `json:"eventType"`
			May       bool      `json:"may"`
		}{p.Name, v, eventType, may})
	} else if may {
		fmt.Fprintf(cmd.OutOrStdout(), "yes: %s may %s %s\n", p.Name, v, eventType)
	}
	if err == nil && !may {
		err = fmt.Errorf("no: %s may not %s %s", p.Name, v, eventType)
	}
	return err
}
