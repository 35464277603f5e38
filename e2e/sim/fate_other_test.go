//go:build !(linux && (amd64 || arm64))

package sim

import "os/exec"

// startFated starts a process. On this system its runtime draws chance from the kernel, and a run of a seed can differ
// from another.
func startFated(cmd *exec.Cmd, _ uint64) error { return cmd.Start() }
