package main

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/bus/kafka"
)

// busOptions reads what --bus says: nothing for the store's own log, or Kafka.
func busOptions(text string) (*kafka.Options, error) {
	if text == "" {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(text, "kafka://")
	hosts, query, _ := strings.Cut(rest, "?")
	if !ok || strings.Trim(hosts, ",/") == "" {
		return nil, usagef("--bus %s: use kafka://HOST:PORT,HOST:PORT?OPTION=VALUE&…", text)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, usagef("--bus: the options are not understood: %w", err)
	}
	known := []string{"prefix", "partitions", "replicas", "retention", "compression", "linger", "session", "unsafe", "tls", "ca", "cert", "key", "sasl", "user"}
	for name := range values {
		if !slices.Contains(known, name) {
			return nil, usagef("--bus: no option %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	var wrong error
	number := func(name string) int {
		if values.Get(name) == "" {
			return 0
		}
		n, err := strconv.Atoi(values.Get(name))
		if err != nil || n < 1 {
			wrong = usagef("--bus: %s=%s: use a number from 1", name, values.Get(name))
		}
		return n
	}
	duration := func(name string) time.Duration {
		if values.Get(name) == "" {
			return 0
		}
		d, err := time.ParseDuration(values.Get(name))
		if err != nil || d < 0 {
			wrong = usagef("--bus: %s=%s: use a duration such as 5ms or 168h", name, values.Get(name))
		}
		return d
	}
	yes := func(name string) bool {
		v, err := strconv.ParseBool(values.Get(name))
		if err != nil && values.Get(name) != "" {
			wrong = usagef("--bus: %s=%s: use true or false", name, values.Get(name))
		}
		return v
	}
	flags := kafkaFlags{
		brokers: strings.Split(strings.Trim(hosts, ",/"), ","), tls: yes("tls"), ca: values.Get("ca"), cert: values.Get("cert"), key: values.Get("key"),
		sasl: values.Get("sasl"), user: values.Get("user"),
	}
	o := &kafka.Options{
		Prefix: values.Get("prefix"), Partitions: number("partitions"), Replicas: number("replicas"), Retention: duration("retention"),
		Compression: values.Get("compression"), Linger: duration("linger"), Session: duration("session"), AllowUnsafe: yes("unsafe"),
	}
	if wrong != nil {
		return nil, wrong
	}
	o.Client, err = flags.client()
	return o, err
}
