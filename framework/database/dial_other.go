//go:build !linux

package database

import "syscall"

// Other systems have no such limit, or one of another form.
func limitUnanswered(string, string, syscall.RawConn) error { return nil }
