package databasetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a private PostgreSQL server, which can be killed and started again
// as often as a test likes. It listens on a Unix socket in its own folder only,
// so any number of them run side by side.
type Server struct {
	bin, dir string
	attr     *syscall.SysProcAttr
	// life is held open by this process. When the process ends, however it
	// does, the server's keeper reads end of file, stops the server and
	// removes the folder.
	life   io.Closer
	keeper *exec.Cmd
}

// NewServer makes and starts a server whose databases and log are in the folder
// dir, which it creates, or takes over if it is there and empty. Its path must
// be short enough for a Unix socket, and, as PostgreSQL does not run as root,
// open to the user postgres if this process does. If dir is empty the server has
// a folder of its own somewhere, which is removed at the end.
//
// The server ends with Stop, or with the process.
func NewServer(dir string) (*Server, error) {
	s, err := newServer(dir)
	if err != nil {
		return nil, err
	}
	if err := s.run("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"); err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

// newServer prepares the folder of a server, and the keeper that clears up
// after it.
func newServer(dir string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	remove := ""
	if dir == "" {
		if dir, err = os.MkdirTemp("", "turnstile-pg-"); err != nil {
			return nil, err
		}
		remove = dir
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir}
	if s.attr, err = unprivileged(dir); err != nil {
		return nil, err
	}
	s.keeper = exec.Command("sh", "-c", `trap '' INT TERM HUP; read -r _; "$0" -D "$1" -m immediate stop >/dev/null 2>&1; [ -z "$2" ] || rm -rf "$2"`,
		s.program("pg_ctl"), s.data(), remove)
	s.keeper.SysProcAttr = &syscall.SysProcAttr{Credential: s.attr.Credential, Setpgid: true}
	s.keeper.Dir = dir
	if s.life, err = s.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	return s, s.keeper.Start()
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) program(name string) string { return filepath.Join(s.bin, name) }

// URL returns the address of a database of the server. With others, which
// replicate it, it is that of whichever takes writes.
func (s *Server) URL(database string, others ...*Server) string {
	hosts := s.dir
	for _, o := range others {
		hosts += "," + o.dir
	}
	v := url.Values{"host": {hosts}, "user": {"postgres"}}
	if len(others) > 0 {
		v.Set("target_session_attrs", "read-write")
	}
	return "postgres:///" + database + "?" + v.Encode()
}

// CreateDatabase makes an empty database.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
}

func (s *Server) exec(ctx context.Context, statement string) error {
	admin, err := sql.Open("pgx", s.URL("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close()
	if _, err := admin.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// Start starts a server that was killed, and waits until it answers. It
// recovers first, as after a crash.
func (s *Server) Start() error { return s.ctl("start", "-o", s.options()) }

// Restart has every process of the server quit at once, without a word to its
// clients and without writing anything down, and starts it again.
func (s *Server) Restart() error { return s.ctl("restart", "-m", "immediate") }

// Kill ends all processes of the server by SIGKILL, as the loss of its machine
// would. Start starts it again.
func (s *Server) Kill() error {
	pid, err := s.postmaster()
	if err != nil {
		return err
	}
	// First the parent is kept from replacing its children, and from
	// recovering by itself.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("databasetest: stop the server's first process: %w", err)
	}
	if err := exec.Command("pkill", "-KILL", "-P", strconv.Itoa(pid)).Run(); err != nil {
		return fmt.Errorf("databasetest: kill the children of process %d with pkill: %w", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("databasetest: kill the server's first process: %w", err)
	}
	// A new one refuses to start as long as the system knows the old one.
	for range 1000 {
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("databasetest: process %d was killed and is still there; does nobody wait for it?", pid)
}

// Standby starts another server, in a folder of its own, that follows this one:
// from here on a commit is answered when both have it.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	o, err := newServer("")
	if err != nil {
		return nil, err
	}
	if err := o.run("pg_basebackup", "-D", o.data(), "-d", s.URL("postgres"), "-R", "-X", "stream", "-c", "fast", "--no-sync"); err != nil {
		return nil, err
	}
	if err := o.Start(); err != nil {
		return nil, err
	}
	// Commits wait for it once the checkpointer has read the setting, which it
	// does before the next checkpoint.
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()", waitForStandby, "CHECKPOINT"} {
		if err := s.exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	return o, nil
}

const waitForStandby = `DO $$ BEGIN
WHILE NOT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync') LOOP
    PERFORM pg_sleep(0.01);
    PERFORM pg_stat_clear_snapshot();
END LOOP;
END $$`

// Promote has a standby become the one that takes writes.
func (s *Server) Promote() error { return s.ctl("promote") }

// Stop ends the server for good, and removes its folder unless that was given
// to NewServer.
func (s *Server) Stop() error {
	return errors.Join(s.life.Close(), s.keeper.Wait())
}

// options are the server's settings. The machine is not going to lose power in
// a test, so nothing is synced.
func (s *Server) options() string {
	return fmt.Sprintf("-c listen_addresses='' -c unix_socket_directories='%s' -c fsync=off -c max_connections=300 -c wal_retrieve_retry_interval=100ms", s.dir)
}

func (s *Server) ctl(what string, args ...string) error {
	return s.run("pg_ctl", append([]string{what, "-w", "-D", s.data(), "-l", filepath.Join(s.dir, "log")}, args...)...)
}

func (s *Server) postmaster() (pid int, err error) {
	b, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	if err != nil {
		return 0, fmt.Errorf("databasetest: the server does not run: %w", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(first)
}

// run runs one of PostgreSQL's programs. What it says goes to a file, because
// the server would hold a pipe open.
func (s *Server) run(name string, args ...string) error {
	out, err := os.Create(filepath.Join(s.dir, "out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(s.program(name), args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = s.dir, s.attr, out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		return fmt.Errorf("databasetest: %s in %s: %w\n%s%s", name, s.dir, err, said, log[max(0, len(log)-2000):])
	}
	return nil
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
		return "", fmt.Errorf("databasetest: PostgreSQL's initdb is neither in PATH nor below /usr/lib/postgresql; install the server to run these tests")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
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

// shared is the one server of the test process: starting one takes a second or
// two, too long for every test.
var shared struct {
	sync.Mutex
	server *Server
	err    error
}

func sharedServer(t testing.TB) *Server {
	t.Helper()
	NeedPostgres(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = NewServer("")
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// NeedPostgres skips the test where PostgreSQL is not installed, or fails it if
// CI is set.
func NeedPostgres(t testing.TB) {
	t.Helper()
	if _, err := binaries(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED ON POSTGRESQL: %v", err)
	}
}
