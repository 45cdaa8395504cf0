//go:build unix

package console_test

import (
	"runtime"
	"syscall"
	"time"
)

func usage() used {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return used{}
	}
	rss := int64(u.Maxrss) //nolint:unconvert // it is narrower on some systems
	if runtime.GOOS != "darwin" && runtime.GOOS != "ios" {
		rss <<= 10 // KiB everywhere else
	}
	return used{time.Duration(u.Utime.Nano() + u.Stime.Nano()), rss}
}
