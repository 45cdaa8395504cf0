package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// ErrForbiddenAddress refuses a webhook's address that is not on the public internet, whatever name led to it.
var ErrForbiddenAddress = errors.New("the address is not on the public internet; allow it in the gateway's settings if it is meant")

// notPublic are the networks that a webhook must not reach: those of the IANA special-purpose registries (RFC 6890 and its
// updates), multicast, and those that embed an IPv4 address, through which one could be reached by another name.
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
	"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16",
)

// publicV6 is the only part of the IPv6 space that is given out as global unicast.
var publicV6 = netip.MustParsePrefix("2000::/3")

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// mayReach says whether a webhook may go to an address.
func mayReach(a netip.Addr, allow []netip.Prefix) bool {
	a = a.Unmap().WithZone("")
	for _, p := range allow {
		if p.Contains(a) {
			return true
		}
	}
	if a.Is6() && !publicV6.Contains(a) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsValid()
}

// guardedClient is an HTTP client whose connections go only to permitted addresses. The address is checked when it is
// dialled, after the name was resolved, so that a name whose answer changes is of no use. Redirects are not followed, and no
// proxy is asked, which would dial for us.
func guardedClient(o WebhookOptions) *http.Client {
	d := &net.Dialer{
		Timeout:  o.Timeout,
		Resolver: o.Resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || !mayReach(at.Addr(), o.Allow) {
				return ErrForbiddenAddress
			}
			return nil
		},
	}
	return &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: d.DialContext, TLSClientConfig: o.TLS.Clone(), TLSHandshakeTimeout: o.Timeout, ForceAttemptHTTP2: true,
			MaxIdleConns: 100, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
			ResponseHeaderTimeout: o.Timeout, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
	}
}

// checkTarget refuses a webhook's URL that could not be delivered to, before it is stored. Names are not resolved here:
// what they lead to is checked at each delivery.
func checkTarget(text string, o WebhookOptions) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > 2000:
		return badTarget("it is no URL")
	case u.Scheme != "https" && (u.Scheme != "http" || len(o.Allow) == 0):
		return badTarget("use https")
	case u.User != nil:
		return badTarget("it must not have a user or password; deliveries are signed")
	case u.Hostname() == "" || u.Opaque != "":
		return badTarget("it names no host")
	case u.Fragment != "":
		return badTarget("it must not have a fragment")
	case u.Port() == "0":
		return badTarget("it names no port")
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		if !mayReach(a, o.Allow) {
			return badTarget(ErrForbiddenAddress.Error())
		}
		return nil
	}
	if last := host[strings.LastIndex(host, ".")+1:]; numeric(last) {
		return badTarget("write an IPv4 address as four decimal numbers") // some resolvers take 0x7f.1 for 127.0.0.1
	}
	local := strings.ToLower(host)
	if len(o.Allow) == 0 && (local == "localhost" || strings.HasSuffix(local, ".localhost") || !strings.Contains(local, ".") || strings.HasSuffix(local, ".internal") || strings.HasSuffix(local, ".local")) {
		return badTarget(ErrForbiddenAddress.Error())
	}
	return nil
}

// numeric says whether the last part of a name makes it an IPv4 address in one of its old forms.
func numeric(part string) bool {
	if hex, ok := strings.CutPrefix(strings.ToLower(part), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return part != "" && strings.Trim(part, "0123456789") == ""
}

func badTarget(reason string) error {
	return newProblem(http.StatusUnprocessableEntity, "bad-url", "url: %s", reason)
}
