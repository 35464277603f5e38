package dev

import (
	"errors"
	"net"
	"syscall"
)

func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// freePort returns the port of the preferred address if it is free, else any free port of its host.
func freePort(preferred string) (string, error) {
	host, _, err := net.SplitHostPort(preferred)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", preferred)
	if inUse(err) {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}
