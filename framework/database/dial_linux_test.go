package database

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDialLimitsTheWaitForAnAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for option, want := range map[[2]int]int{
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}: 25_000,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:     10,
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}:    5,
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}:      3,
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:      1,
		} {
			if got, err := unix.GetsockoptInt(int(fd), option[0], option[1]); err != nil || got != want {
				t.Errorf("option %v is %d (%v), want %d", option, got, err, want)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}
