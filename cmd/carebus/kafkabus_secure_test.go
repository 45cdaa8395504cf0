package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// TestSecureKafka: the demo over brokers that speak TLS only and want a password, and what is said when one of the two is wrong.
func TestSecureKafka(t *testing.T) {
	dir := t.TempDir()
	cert, key, other := filepath.Join(dir, "kafka.pem"), filepath.Join(dir, "kafka.key"), filepath.Join(dir, "other.pem")
	writePair(t, 1, cert, key)
	writePair(t, 2, other, "")
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
	address := func(options ...string) string {
		v := url.Values{}
		for i := 0; i < len(options); i += 2 {
			v.Set(options[i], options[i+1])
		}
		return "kafka://" + strings.Join(c.ListenAddrs(), ",") + "?" + v.Encode()
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
		"wrong password":    {address("tls", "true", "ca", cert, "sasl", "scram-sha-256", "user", "carebus"), "guess", "another login"},
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
