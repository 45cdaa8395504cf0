package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/gateway"
)

const defaultListen = "127.0.0.1:8080"

// serveFlags of the commands that serve HTTP.
type serveFlags struct {
	listen             string
	policy             string
	cert, key, clients string
	hooksTo            []string
	services           bool
	telemetry          telemetryFlags
}

func (f *serveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.policy, "policy", os.Getenv("CAREBUS_POLICY"), "policy file: who may do what (env CAREBUS_POLICY); without one the address must be on loopback")
	cmd.Flags().StringVar(&f.cert, "tls-cert", "", "certificate chain, PEM")
	cmd.Flags().StringVar(&f.key, "tls-key", "", "its private key, PEM")
	cmd.Flags().StringVar(&f.clients, "tls-client-ca", "", "authorities of client certificates, PEM: clients may then show who they are by mTLS")
	cmd.Flags().StringSliceVar(&f.hooksTo, "webhook-allow", nil, "networks that webhooks may reach though they are not public, such as 127.0.0.0/8: for development")
}

func newServeCommand(a *app) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the store over HTTP",
		Long: `Serves the HTTP API: publish, search, live streams, consumer groups, webhooks, operation, the schema registry, metrics.
It is described at /docs. Without a policy file everybody may do everything, so the address must be on loopback then.
A policy file that has changed is read again within seconds; see carebus policy check and carebus token new.
With --services the reference services run in this process too.`,
		Example: `carebus serve
  carebus serve --listen :8443 --policy policy.yaml --tls-cert server.pem --tls-key server.key`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.serve(cmd.Context(), cmd, f)
		},
	}
	cmd.Flags().StringVar(&f.listen, "listen", defaultListen, "address to listen at")
	cmd.Flags().BoolVar(&f.services, "services", false, "run the reference services too")
	f.add(cmd)
	f.telemetry.add(cmd, "info", true)
	return cmd
}

func (a *app) serve(ctx context.Context, cmd *cobra.Command, f serveFlags) (err error) {
	t, err := f.telemetry.start(ctx, cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	p, err := a.open(ctx, cmd, t.options())
	if err != nil {
		return err
	}
	t.Watch(p)
	defer func() { err = errors.Join(err, p.Close()) }()
	if f.services {
		for _, join := range services {
			if err := join(ctx, p); err != nil {
				return err
			}
		}
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	ran := make(chan error, 1)
	go func() { ran <- p.Run(working) }()
	err = f.run(ctx, p, t, func(url string) { fmt.Fprintln(cmd.ErrOrStderr(), "serving", url) })
	stop()
	return errors.Join(err, <-ran)
}

// run serves a platform until ctx ends. ready is told the address.
func (f *serveFlags) run(ctx context.Context, p *carebus.Platform, t *observed, ready func(url string)) error {
	o := gateway.Options{States: states(), Mount: t.mount(), Logger: t.log}
	for _, text := range f.hooksTo {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return usagef("--webhook-allow %s: give a network such as 127.0.0.0/8", text)
		}
		o.Webhooks.Allow = append(o.Webhooks.Allow, network)
	}
	config, err := f.tls()
	if err != nil {
		return err
	}
	if f.policy != "" {
		if o.Door, err = auth.Load(f.policy); err != nil {
			return err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", f.listen, err)
	}
	if o.Door == nil && !gateway.ListenLocal(l.Addr()) {
		return errors.Join(usagef("--listen %s can be reached from other machines; give --policy, which says who may do what, or an address on loopback", f.listen), l.Close())
	}
	if o.Door != nil {
		var watching sync.WaitGroup
		defer watching.Wait()
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		watching.Go(func() { o.Door.Watch(ctx, 2*time.Second, func(err error) { tellPolicy(t.log, err) }) })
	}
	g, err := gateway.New(ctx, p, &o)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	ready(scheme + "://" + l.Addr().String())
	return gateway.Serve(ctx, l, g, &gateway.ServeOptions{TLS: config, Logger: t.log})
}

func tellPolicy(log *slog.Logger, err error) {
	if err != nil {
		log.Error("the changed policy cannot be used; the one before stays in force", "error", err.Error())
		return
	}
	log.Info("the changed policy is in force")
}

// tls is nil for plain HTTP. The certificate is read anew when its file has changed, so that it can be renewed.
func (f *serveFlags) tls() (*tls.Config, error) {
	if f.cert == "" && f.key == "" {
		if f.clients != "" {
			return nil, usagef("--tls-client-ca goes with --tls-cert and --tls-key")
		}
		return nil, nil
	}
	if f.cert == "" || f.key == "" {
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	pair := &renewed{cert: f.cert, key: f.key}
	if _, err := pair.get(nil); err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get, NextProtos: []string{"h2", "http/1.1"}}
	if f.clients != "" {
		text, err := os.ReadFile(f.clients)
		if err != nil {
			return nil, fmt.Errorf("--tls-client-ca: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, usagef("--tls-client-ca %s: no certificate in it", f.clients)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return config, nil
}

// states folds the entities that the program knows.
func states() map[string]gateway.State {
	out := map[string]gateway.State{}
	for category, e := range entities {
		out[category] = func(ctx context.Context, p *carebus.Platform, id string, version int64, at time.Time) (gateway.EntityState, error) {
			got, err := e.state(ctx, p, id, moment{version, at})
			return gateway.EntityState{Version: got.Version, RecordedAt: got.RecordedAt, State: got.State, As: e.as}, err
		}
	}
	return out
}
