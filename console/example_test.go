package console_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/console"
	"github.com/carebus/carebus/gateway"
)

// A console is mounted into a gateway, which serves both.
func Example() {
	dir, err := os.MkdirTemp("", "console")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	p, err := carebus.Open(ctx, "sqlite:"+dir+"/care.db", &carebus.Options{Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	c := console.New(ctx, p, &console.Options{Local: true, Logger: quiet})
	defer c.Close()
	g, err := gateway.New(ctx, p, &gateway.Options{Mount: c.Mounts(), Logger: quiet})
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	// Serve with gateway.Serve; here one page is asked for.
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost/console/", nil))
	fmt.Println(w.Code, strings.Contains(w.Body.String(), "<h1>Overview</h1>"))
	// Output: 200 true
}
