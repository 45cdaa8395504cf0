package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/confluent"
)

// kafkaFlags say how Kafka is reached.
type kafkaFlags struct {
	name          string
	brokers       []string
	tls           bool
	ca, cert, key string
	sasl, user    string
}

func (f *kafkaFlags) addName(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "name", "kafka", "the bridge; its progress hangs on the name")
}

func (f *kafkaFlags) add(cmd *cobra.Command) {
	f.addName(cmd)
	var brokers []string
	if env := os.Getenv("CAREBUS_KAFKA"); env != "" {
		brokers = strings.Split(env, ",")
	}
	cmd.Flags().StringSliceVar(&f.brokers, "brokers", brokers, "HOST:PORT of some brokers (env CAREBUS_KAFKA)")
	cmd.Flags().BoolVar(&f.tls, "tls", false, "speak TLS")
	cmd.Flags().StringVar(&f.ca, "tls-ca", "", "authorities of the brokers' certificates, PEM; default the system's")
	cmd.Flags().StringVar(&f.cert, "tls-cert", "", "client certificate, PEM")
	cmd.Flags().StringVar(&f.key, "tls-key", "", "its private key, PEM")
	cmd.Flags().StringVar(&f.sasl, "sasl", "", "plain, scram-sha-256 or scram-sha-512; the password is in env CAREBUS_KAFKA_PASSWORD")
	cmd.Flags().StringVar(&f.user, "sasl-user", "", "the user for --sasl")
}

func (f *kafkaFlags) client() ([]kgo.Opt, error) {
	if len(f.brokers) == 0 {
		return nil, usagef("--brokers: name some brokers of Kafka, HOST:PORT, or set CAREBUS_KAFKA")
	}
	opts := []kgo.Opt{kgo.SeedBrokers(f.brokers...)}
	if !f.tls && f.ca+f.cert+f.key != "" {
		return nil, usagef("--tls-ca, --tls-cert and --tls-key go with --tls")
	}
	if f.tls {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if f.ca != "" {
			text, err := os.ReadFile(f.ca)
			if err != nil {
				return nil, fmt.Errorf("--tls-ca: %w", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(text) {
				return nil, usagef("--tls-ca %s: no certificate in it", f.ca)
			}
		}
		if (f.cert == "") != (f.key == "") {
			return nil, usagef("--tls-cert and --tls-key go together")
		}
		if f.cert != "" {
			pair, err := tls.LoadX509KeyPair(f.cert, f.key)
			if err != nil {
				return nil, fmt.Errorf("--tls-cert: %w", err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	password := os.Getenv("CAREBUS_KAFKA_PASSWORD")
	if f.sasl != "" && (f.user == "" || password == "") {
		return nil, usagef("--sasl %s: give --sasl-user, and the password in CAREBUS_KAFKA_PASSWORD", f.sasl)
	}
	switch f.sasl {
	case "":
	case "plain":
		opts = append(opts, kgo.SASL(plain.Auth{User: f.user, Pass: password}.AsMechanism()))
	case "scram-sha-256":
		opts = append(opts, kgo.SASL(scram.Auth{User: f.user, Pass: password}.AsSha256Mechanism()))
	case "scram-sha-512":
		opts = append(opts, kgo.SASL(scram.Auth{User: f.user, Pass: password}.AsSha512Mechanism()))
	default:
		return nil, usagef("--sasl %s: use plain, scram-sha-256 or scram-sha-512", f.sasl)
	}
	return opts, nil
}

func newBridgeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Copy events to Kafka and from Kafka",
		Long: `Copies chosen event types from the store to topics of Apache Kafka, and events from topics into the store: exactly once
into the store, at least once into Kafka, in order per key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBridgeKafkaCommand(a), newBridgeStatusCommand(a), newBridgeSeekCommand(a), newBridgeDLQCommand(a))
	return cmd
}

func newBridgeKafkaCommand(a *app) *cobra.Command {
	var f kafkaFlags
	var o bridge.Options
	var out bridge.Out
	var in bridge.In
	var topic, format string
	var framed, outFromNow bool
	cmd := &cobra.Command{
		Use:   "kafka --brokers HOST:PORT (--out PATTERN | --in TOPIC)...",
		Short: "Run a bridge in this process, until it is told to stop",
		Long: `Runs a bridge. --out copies events whose type fits a pattern to Kafka, --in copies a topic into the store; one bridge may
do both. Several processes may run one bridge: they share what goes out, and stand by for each other for what comes in.
Formats of --out: native (the envelope as JSON), cloudevents (structured), cloudevents-binary (attributes in headers). What
comes in may be in any of them. The topic is a template with {domain}, {entity} and {type}.`,
		Example: `carebus bridge kafka --brokers localhost:9092 --out 'medication.**' --create-topics
  carebus bridge kafka --brokers localhost:9092 --name lab --in lab.results --out 'care.**' --format cloudevents`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(out.Patterns)+len(in.Topics) == 0 {
				return usagef("say what to copy: --out PATTERN, --in TOPIC, or both")
			}
			var err error
			if o.Client, err = f.client(); err != nil {
				return err
			}
			out.Topic, out.Format = bridge.Topic(topic), bridge.Format(format)
			if outFromNow {
				out.Start = bus.FromNow
			}
			return a.runBridge(cmd, f.name, o, out, in, framed)
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&out.Patterns, "out", nil, "copy events whose type fits this pattern to Kafka; may be repeated")
	cmd.Flags().StringVar(&topic, "topic", string(bridge.DefaultTopic), "where they go: {domain}, {entity} and {type} stand for parts of the event type")
	cmd.Flags().StringVar(&format, "format", string(bridge.Native), "native, cloudevents or cloudevents-binary")
	cmd.Flags().BoolVar(&framed, "confluent", false, "frame payloads as a schema registry's serializers do; with --format cloudevents-binary")
	cmd.Flags().BoolVar(&outFromNow, "out-from-now", false, "a bridge that has never run begins with events stored from now on, not with the first")
	cmd.Flags().StringSliceVar(&in.Topics, "in", nil, "copy this topic into the store; may be repeated")
	cmd.Flags().BoolVar(&in.FromEnd, "in-from-end", false, "a topic never read before is read from its end, not from its beginning")
	cmd.Flags().BoolVar(&o.CreateTopics, "create-topics", false, "create topics that are missing")
	cmd.Flags().IntVar(&o.Partitions, "partitions", 0, "partitions of topics that are created (default: as many as the store has)")
	cmd.Flags().IntVar(&o.Replicas, "replicas", 0, "replicas of topics that are created (default: the broker's setting)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"native", "cloudevents", "cloudevents-binary"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) runBridge(cmd *cobra.Command, name string, o bridge.Options, out bridge.Out, in bridge.In, framed bool) (err error) {
	ctx := cmd.Context()
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	p, err := a.open(ctx, cmd, &carebus.Options{Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	o.Logger = log
	b, err := bridge.Open(ctx, p, name, &o)
	if err != nil {
		return &usageError{err}
	}
	defer b.Close()
	if framed {
		h, err := confluent.New(p, &confluent.Options{Logger: log})
		if err != nil {
			return err
		}
		out.SchemaID = h.ID
	}
	if len(out.Patterns) > 0 {
		if err := b.Out(out); err != nil {
			return &usageError{err}
		}
	}
	// Either way out or way in may end with an error; the other then ends too.
	working, stop := context.WithCancel(ctx)
	defer stop()
	ways := 0
	ended := make(chan error, 2)
	start := func(run func(ctx context.Context) error) {
		ways++
		go func() {
			defer stop()
			ended <- run(working)
		}()
	}
	if len(out.Patterns) > 0 {
		start(p.Run)
	}
	if len(in.Topics) > 0 {
		start(func(ctx context.Context) error { return b.In(ctx, in) })
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "bridge %s is running\n", name)
	for range ways {
		err = errors.Join(err, <-ended)
	}
	return errors.Join(err, a.printBridged(cmd, b.Status()))
}

func (a *app) printBridged(cmd *cobra.Command, s bridge.Status) error {
	if a.json() {
		return printJSON(cmd.OutOrStdout(), s)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s sent; %s stored, %s there already, %s refused\n",
		plural(s.Sent, "event"), plural(s.Stored, "event"), plural(s.Duplicates, "event"), plural(s.Refused, "record"))
	return err
}

// withBridge opens a bridge of an existing store, to look at it or to settle something.
func (a *app) withBridge(cmd *cobra.Command, name string, client []kgo.Opt, fn func(ctx context.Context, p *carebus.Platform, b *bridge.Bridge) error) error {
	return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
		b, err := bridge.Open(ctx, p, name, &bridge.Options{Client: client})
		if err != nil {
			return &usageError{err}
		}
		defer b.Close()
		return fn(ctx, p, b)
	})
}

// bridgeReport is what `carebus bridge status -o json` prints.
type bridgeReport struct {
	Name    string            `json:"bridge"`
	Out     *bus.GroupStatus  `json:"out,omitempty"`
	In      []bridge.Position `json:"in"`
	Refused int               `json:"refused"`
}

func newBridgeStatusCommand(a *app) *cobra.Command {
	var f kafkaFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far a bridge has come",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBridge(cmd, f.name, nil, func(ctx context.Context, p *carebus.Platform, b *bridge.Bridge) error {
				r := bridgeReport{Name: f.name, In: []bridge.Position{}}
				g, err := p.Bus().Group(ctx, bridge.Group(f.name))
				switch {
				case err == nil:
					r.Out = &g
				case !errors.Is(err, bus.ErrNoGroup):
					return err
				}
				positions, err := b.Positions(ctx)
				if err != nil {
					return err
				}
				r.In = append(r.In, positions...)
				refused, err := b.Refused(ctx, "", 0)
				if err != nil {
					return err
				}
				r.Refused = len(refused)
				if r.Out == nil && len(r.In) == 0 {
					return notFoundf("no bridge %s has run on this store", f.name)
				}
				return a.printBridge(cmd, r)
			})
		},
	}
	f.addName(cmd)
	return cmd
}

func (a *app) printBridge(cmd *cobra.Command, r bridgeReport) error {
	w := cmd.OutOrStdout()
	if a.json() {
		return printJSON(w, r)
	}
	if r.Out != nil {
		if err := fields(w, "out", r.Out.State, "reason", r.Out.Reason, "patterns", strings.Join(r.Out.Patterns, " "), "lag", fmt.Sprint(r.Out.Lag),
			"parked keys", fmt.Sprint(r.Out.ParkedKeys), "parked events", fmt.Sprint(r.Out.Waiting)); err != nil {
			return err
		}
	}
	if len(r.In) == 0 {
		return nil
	}
	rows := [][]string{}
	for _, p := range r.In {
		rows = append(rows, []string{p.Topic, fmt.Sprint(p.Partition), fmt.Sprint(p.Next), p.UpdatedAt.Format("2006-01-02 15:04:05")})
	}
	if err := a.table(w, []string{"topic", "partition", "next", "at"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s refused\n", plural(int64(r.Refused), "record"))
	return err
}

func newBridgeSeekCommand(a *app) *cobra.Command {
	var f kafkaFlags
	var to, reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "seek TOPIC PARTITION --to PLACE --reason TEXT",
		Short: "Move where a topic is read on",
		Long: `Moves where a bridge reads a partition of a topic on: beginning, end, or an offset. Going back is safe: events that are
stored already are found there. Going forward passes over records for good. It is also how to go on after a topic was
deleted and created again, or after records were removed unread.`,
		Example: "carebus bridge seek lab.results 3 --to beginning --reason 'the topic was created again' --yes",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReason(reason); err != nil {
				return err
			}
			part, err := strconv.ParseInt(args[1], 10, 32)
			if err != nil || part < 0 {
				return usagef("partition %s: give a number from 0", args[1])
			}
			var offset int64
			switch to {
			case "beginning":
				offset = bridge.Beginning
			case "end":
				offset = bridge.End
			default:
				if offset, err = strconv.ParseInt(to, 10, 64); err != nil || offset < 0 {
					return usagef("--to %s: use beginning, end or an offset", to)
				}
			}
			return a.withBridge(cmd, f.name, nil, func(ctx context.Context, _ *carebus.Platform, b *bridge.Bridge) error {
				if err := a.confirm(cmd, yes, fmt.Sprintf("Bridge %s reads topic %s partition %d on at %s.", f.name, args[0], part, to)); err != nil {
					return err
				}
				return b.Seek(ctx, args[0], int32(part), offset, bus.Act{Actor: actor(), Reason: reason})
			})
		},
	}
	f.addName(cmd)
	cmd.Flags().StringVar(&to, "to", "", "beginning, end or an offset")
	_ = cmd.MarkFlagRequired("to")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	reasonFlag(cmd, &reason, true)
	return cmd
}

func newBridgeDLQCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at and settle records that could not become events",
		Long: `Looks at and settles records from Kafka that were refused. The records behind them went on. Only where they are, and why,
is kept here; their values are in Kafka for as long as the topic keeps them. What could not be sent to Kafka is a parked
key like any other: carebus dlq list --group bridge:NAME.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBridgeDLQListCommand(a), newBridgeDLQSettleCommand(a, false), newBridgeDLQSettleCommand(a, true))
	return cmd
}

func newBridgeDLQListCommand(a *app) *cobra.Command {
	var f kafkaFlags
	var topic string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List refused records with the reason",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBridge(cmd, f.name, nil, func(ctx context.Context, _ *carebus.Platform, b *bridge.Bridge) error {
				letters, err := b.Refused(ctx, topic, limit)
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), append([]bridge.Refused{}, letters...))
				}
				rows := [][]string{}
				for _, r := range letters {
					rows = append(rows, []string{r.String(), r.EventType, r.EventID, r.Rule, fmt.Sprint(r.Attempts), r.Error})
				}
				return a.table(cmd.OutOrStdout(), []string{"record", "type", "event", "rule", "attempts", "error"}, rows)
			})
		},
	}
	f.addName(cmd)
	cmd.Flags().StringVar(&topic, "topic", "", "only of this topic")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many; 0 for all")
	return cmd
}

// newBridgeDLQSettleCommand makes retry and discard.
func newBridgeDLQSettleCommand(a *app, discard bool) *cobra.Command {
	var f kafkaFlags
	var topic, reason string
	var all, yes bool
	cmd := &cobra.Command{
		Use:   "retry [RECORD...] --reason TEXT",
		Short: "Read refused records again, and store their events",
		Long: `Reads refused records from Kafka again: after their schema was registered, for instance. A RECORD is
TOPIC/PARTITION/OFFSET, as carebus bridge dlq list prints it. The events are stored behind what has come since.`,
		Example: "carebus bridge dlq retry lab.results/3/81223 --reason 'the schema is registered'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReason(reason); err != nil {
				return err
			}
			if (len(args) > 0) == (all || topic != "") {
				return usagef("name records, or choose them with --topic or --all")
			}
			var client []kgo.Opt
			if !discard {
				var err error
				if client, err = f.client(); err != nil {
					return err
				}
			}
			return a.withBridge(cmd, f.name, client, func(ctx context.Context, _ *carebus.Platform, b *bridge.Bridge) error {
				records, err := chosenRecords(ctx, b, args, topic)
				if err != nil {
					return err
				}
				if discard {
					if err := a.confirm(cmd, yes, plural(int64(len(records)), "record")+" will be given up for good."); err != nil {
						return err
					}
				}
				return settleRecords(ctx, cmd, b, records, discard, bus.Act{Actor: actor(), Reason: reason})
			})
		},
	}
	if discard {
		cmd.Use, cmd.Short, cmd.Long = "discard [RECORD...] --reason TEXT", "Give refused records up for good", ""
		cmd.Example = "carebus bridge dlq discard lab.results/3/81223 --reason 'a test message' --yes"
		f.addName(cmd)
		cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	} else {
		f.add(cmd)
	}
	cmd.Flags().StringVar(&topic, "topic", "", "all of this topic")
	cmd.Flags().BoolVar(&all, "all", false, "all of the bridge")
	reasonFlag(cmd, &reason, true)
	return cmd
}

func chosenRecords(ctx context.Context, b *bridge.Bridge, args []string, topic string) (out []bridge.Record, err error) {
	if len(args) == 0 {
		letters, err := b.Refused(ctx, topic, 0)
		for _, r := range letters {
			out = append(out, r.Record)
		}
		return out, err
	}
	for _, arg := range args {
		f := strings.Split(arg, "/")
		if len(f) != 3 {
			return nil, usagef("%s: a record is TOPIC/PARTITION/OFFSET", arg)
		}
		part, err1 := strconv.ParseInt(f[1], 10, 32)
		offset, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil || part < 0 || offset < 0 {
			return nil, usagef("%s: a record is TOPIC/PARTITION/OFFSET", arg)
		}
		out = append(out, bridge.Record{Topic: f[0], Partition: int32(part), Offset: offset})
	}
	return out, nil
}

func settleRecords(ctx context.Context, cmd *cobra.Command, b *bridge.Bridge, records []bridge.Record, discard bool, act bus.Act) error {
	failed := 0
	var last error
	for _, r := range records {
		var err error
		if discard {
			err = b.Discard(ctx, r, act)
		} else {
			_, err = b.Retry(ctx, r, nil, act)
		}
		if err != nil {
			failed++
			last = err
			if len(records) > 1 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%v: %v\n", r, err)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s settled\n", plural(int64(len(records)-failed), "record"))
	switch {
	case failed == 0:
		return nil
	case failed == 1 && len(records) == 1:
		return last
	}
	return fmt.Errorf("%d of %s not settled", failed, plural(int64(len(records)), "record"))
}
