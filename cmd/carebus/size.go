package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/scaling"
)

// sizeReport is what `carebus size -o json` prints.
type sizeReport struct {
	Demand  scaling.Demand `json:"demand"`
	Plan    scaling.Plan   `json:"plan"`
	Machine string         `json:"measuredOn"`
	Error   float64        `json:"statedError"`
}

func newSizeCommand(a *app) *cobra.Command {
	var d scaling.Demand
	var raw float64
	cmd := &cobra.Command{
		Use:   "size",
		Short: "Estimate what a load needs: databases, partitions, brokers, disks",
		Long: `Simulates one database with its processes, in virtual time, from what was measured on one small machine, and computes how many of
them, and of partitions and brokers, a load needs. docs/scaling.md tells how good that is. Say how fast your machine is by --raw:
what carebus bench --store postgres://… shows as raw, beside publishers, with one process.`,
		Example: `carebus size --events 20000 --services 12 --handlers 3
carebus size --events 100000 --bytes 2000 --raw 40000`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.EventsPerSecond <= 0 || d.Bytes < 1 || d.Services < 1 || d.Handlers < 0 || d.Processes < 1 || d.Processes > 64 || d.Days < 1 || d.Average <= 0 || d.Average > 1 || raw < 0 {
				return usagef("give --events above 0, --bytes, --services and --days from 1, --handlers from 0, --processes from 1 to 64, --average above 0 and up to 1")
			}
			m, err := scaling.Reference()
			if err != nil {
				return err
			}
			c, err := m.Costs("postgres")
			if err != nil {
				return err
			}
			broker := m.Broker
			if raw > 0 {
				times := raw / c.RawInserts(m.Cores)
				c, broker = c.Faster(times), broker*times
			}
			r := sizeReport{Demand: d, Plan: scaling.Size(c, d, broker), Machine: m.Machine + ", " + m.At, Error: scaling.StatedError}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), r)
			}
			p := r.Plan
			rows := [][]string{
				{"rung", p.Rung},
				{"databases", fmt.Sprint(p.Databases)},
				{"of each service, by key", fmt.Sprint(p.PerService)},
				{"events/s that one takes, planned", fmt.Sprintf("%.0f", p.Capacity)},
				{"events/s that one gets", fmt.Sprintf("%.0f", p.PerDatabase)},
				{"partitions of each", fmt.Sprint(p.Partitions)},
				{"Kafka brokers", fmt.Sprint(p.Brokers)},
				{"databases grow by, a day", bytesText(p.BytesPerDay)},
				{fmt.Sprintf("databases after %d days", d.Days), bytesText(p.Bytes)},
				{"Kafka takes, a day", bytesText(p.KafkaPerDay)},
				{"publishing takes, median and p99", fmt.Sprintf("%v, %v", p.OneDatabase.Median.Round(100*time.Microsecond), p.OneDatabase.P99.Round(100*time.Microsecond))},
				{"events in a commit", fmt.Sprintf("%.0f", p.OneDatabase.PerSecond/max(p.OneDatabase.Commits, 1))},
				{"one database is used by", fmt.Sprintf("%.0f %%", 100*p.Used)},
				{"the first to be full", p.FirstToBreak},
			}
			if err := a.table(cmd.OutOrStdout(), []string{"what", "how much"}, rows); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nfrom measures on %s; they were met within %.0f %%. Measure yours: carebus bench --store postgres://…\n", r.Machine, 100*r.Error)
			return err
		},
	}
	cmd.Flags().Float64Var(&d.EventsPerSecond, "events", 0, "events stored a second at the peak, by all services together")
	cmd.Flags().IntVar(&d.Bytes, "bytes", 500, "payload of an event")
	cmd.Flags().IntVar(&d.Services, "services", 12, "services that may have a database each")
	cmd.Flags().IntVar(&d.Handlers, "handlers", 2, "groups that handle each event")
	cmd.Flags().IntVar(&d.Processes, "processes", 2, "processes at each database")
	cmd.Flags().IntVar(&d.Days, "days", 30, "days that events stay in the databases")
	cmd.Flags().Float64Var(&d.Average, "average", 0.5, "load of a day as a share of the peak")
	cmd.Flags().Float64Var(&raw, "raw", 0, "raw inserts a second on your machine (default: the one that was measured)")
	_ = cmd.MarkFlagRequired("events")
	return cmd
}

// bytesText is a number of bytes for people.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB", "TB"} {
		if n < 1000 {
			return fmt.Sprintf("%.3g %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.3g PB", n)
}
