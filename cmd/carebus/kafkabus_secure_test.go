package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/carebus/carebus/event"
)

// TestSecureKafka: the demo over brokers that speak TLS only and want a password, and what is said when one of the two is wrong.
func TestSecureKafka(t *testing.T) {
	t.Run("in-process", func(t *testing.T) {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "kafka.pem"), filepath.Join(dir, "kafka.key")
		writePair(t, 1, cert, key)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}), kfake.EnableSASL(),
			kfake.Superuser("PLAIN", "carebus", "secret"), kfake.Superuser("SCRAM-SHA-256", "carebus", "secret"), kfake.Superuser("SCRAM-SHA-512", "carebus", "secret"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		secureKafka(t, strings.Join(c.ListenAddrs(), ","), cert)
	})
	t.Run("apache", func(t *testing.T) {
		brokers := os.Getenv("CAREBUS_TEST_KAFKA_SECURE")
		if brokers == "" {
			t.Skip("CAREBUS_TEST_KAFKA_SECURE is not set; start Kafka with scripts/kafka")
		}
		secureKafka(t, brokers, os.Getenv("CAREBUS_TEST_KAFKA_CA"))
	})
}

func secureKafka(t *testing.T, brokers, cert string) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.pem")
	writePair(t, 2, other, "")
	id := event.NewID()
	prefix := "secure-" + id[len(id)-12:] + "." // others may use the brokers
	address := func(options ...string) string {
		v := url.Values{"prefix": {prefix}}
		for i := 0; i < len(options); i += 2 {
			v.Set(options[i], options[i+1])
		}
		return "kafka://" + brokers + "?" + v.Encode()
	}
	store := "sqlite:" + filepath.Join(dir, "store.db")
	demo := func(bus string) []string {
		return []string{"demo", "--patients", "10", "--rate", "600", "--for", "200ms", "--pickup", "500ms", "--store", store, "--bus", bus, "-o", "json"}
	}
	t.Setenv("CAREBUS_KAFKA_PASSWORD", "secret")
	text := carebusOK(t, demo(address("tls", "true", "ca", cert, "sasl", "scram-sha-256", "user", "carebus"))...)
	var report struct {
		Audit json.RawMessage `json:"audit"`
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil || len(report.Audit) == 0 {
		t.Errorf("%s, %v", text, err)
	}
	for _, mechanism := range []string{"plain", "scram-sha-512"} {
		carebusOK(t, "group", "list", "--store", store, "--bus", address("tls", "true", "ca", cert, "sasl", mechanism, "user", "carebus"))
	}
	for what, one := range map[string]struct{ bus, password, want string }{
		"wrong password":    {address("tls", "true", "ca", cert, "sasl", "scram-sha-256", "user", "carebus"), "guess", "login"},
		"no password":       {address("tls", "true", "ca", cert, "sasl", "scram-sha-256", "user", "carebus"), "", "CAREBUS_KAFKA_PASSWORD"},
		"another authority": {address("tls", "true", "ca", other, "sasl", "plain", "user", "carebus"), "secret", "certificate"},
		"no TLS":            {address("sasl", "plain", "user", "carebus"), "secret", "TLS"},
	} {
		t.Setenv("CAREBUS_KAFKA_PASSWORD", one.password)
		var out, errs bytes.Buffer
		code := run(context.Background(), demo(one.bus), strings.NewReader(""), &out, &errs)
		if code == 0 || !strings.Contains(errs.String(), one.want) {
			t.Errorf("%s: ended with %d and said %q; want %q in it", what, code, errs.String(), one.want)
		}
	}
}
