package databasetest

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// server is a private PostgreSQL. It listens on a Unix socket in its own
// folder only, so any number of them run side by side.
type server struct {
	dir string
	// life is held open by the test process. When the process ends, however it
	// does, the server's keeper reads end of file, stops the server and
	// removes the folder.
	life io.Closer
}

func (s *server) url(database string) string {
	return fmt.Sprintf("postgres:///%s?host=%s&user=postgres", database, s.dir)
}

// shared is the one server of the test process: starting one takes a second or
// two, too long for every test.
var shared struct {
	sync.Mutex
	server *server
	err    error
}

func sharedServer(t testing.TB) *server {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("databasetest: %v", err)
		}
		t.Skipf("NOT TESTED ON POSTGRESQL: %v", err)
	}
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = startServer(bin)
	}
	if shared.err != nil {
		t.Fatalf("databasetest: start PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// binaries finds the folder of PostgreSQL's server programs.
func binaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL's initdb is neither in PATH nor below /usr/lib/postgresql; install the server to run these tests")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

func startServer(bin string) (*server, error) {
	dir, err := os.MkdirTemp("", "turnstile-pg-")
	if err != nil {
		return nil, err
	}
	attr, err := unprivileged(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := run(attr, dir, filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"); err != nil {
		return nil, err
	}
	// The machine is not going to lose power in a test, so nothing is synced.
	options := fmt.Sprintf("-c listen_addresses='' -c unix_socket_directories='%s' -c fsync=off -c max_connections=300", dir)
	pgctl := filepath.Join(bin, "pg_ctl")
	if err := run(attr, dir, pgctl, "-D", data, "-l", filepath.Join(dir, "log"), "-o", options, "-w", "start"); err != nil {
		return nil, err
	}
	keeper := exec.Command("sh", "-c", `trap '' INT TERM HUP; read -r _; "$0" -D "$1" -m immediate stop >/dev/null 2>&1; rm -rf "$2"`, pgctl, data, dir)
	keeper.SysProcAttr = &syscall.SysProcAttr{Credential: attr.Credential, Setpgid: true}
	keeper.Dir = dir
	life, err := keeper.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := keeper.Start(); err != nil {
		return nil, err
	}
	return &server{dir: dir, life: life}, nil
}

func run(attr *syscall.SysProcAttr, dir, name string, args ...string) error {
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, attr, out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, said)
	}
	return nil
}

// unprivileged gives dir to a user that PostgreSQL agrees to run as: it
// refuses root.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}
