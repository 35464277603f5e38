package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

var (
	seeds   = flag.Int("seeds", 300, "how many seeds to run, besides those in testdata/seeds")
	first   = flag.Uint64("first", 1, "the first of them")
	seed    = flag.Uint64("seed", 0, "run this seed only, and print its history")
	luck    = flag.String("luck", "", "with -seed: what was printed when it failed")
	workers = flag.Int("workers", runtime.NumCPU(), "how many processes run seeds at once")
	verbose = flag.Bool("verbose", false, "with -seed: print what the services log, too")
	sums    = flag.Bool("sums", false, "print a sum of each seed's history, to see whether two runs of it are the same")
)

// TestSimulation runs seeds, those first that have found something before. More of them:
//
//	go test ./e2e/sim -seeds 10000 -timeout 20m
//
// and one again, with its history:
//
//	go test ./e2e/sim -seed 42
func TestSimulation(t *testing.T) {
	switch order := os.Getenv(workerEnv); {
	case order != "":
		work(t, order)
	case *seed != 0:
		var failures atomic.Int32
		j := replaying(*seed, true)
		j.Luck = *luck
		for try := 1; !runJob(t, j, &failures); try++ {
			if try == 100 {
				t.Fatalf("none of %d processes has begun with the luck %s", try, *luck)
			}
		}
	default:
		var jobs []job
		for _, s := range readCorpus(t) {
			jobs = append(jobs, replaying(s, false))
		}
		runJobs(t, jobs)
		count := *seeds
		if testing.Short() {
			count = min(count, 20)
		}
		jobs = nil
		for s, end := *first, *first+uint64(count); s < end; {
			to := min(end, (s/batch+1)*batch)
			jobs = append(jobs, job{Start: s / batch * batch, From: s, To: to})
			s = to
		}
		runJobs(t, jobs)
	}
}

// readCorpus returns the seeds in testdata/seeds.
func readCorpus(t *testing.T) (all []uint64) {
	t.Helper()
	text, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) == "" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
		if err != nil {
			t.Fatalf("testdata/seeds: %v", err)
		}
		all = append(all, n)
	}
	return all
}

// batch is how many seeds are run in one process, one after the other. What the runtime draws by chance in a process
// hangs on all that was before, so a seed is always run after those before it in its batch.
const batch = 10

// job is the seeds from Start up to To, of which those before From are only run for the sake of the others. It is run
// by this test in a process of its own, a worker, with one processor: then goroutines do what the seed has them do.
type job struct {
	Start, From, To uint64
	History         bool // to be printed, whether or not a seed fails
	Verbose, Sums   bool
	Luck            string // without it the job is not to be done; empty for any
}

// replaying is the job that runs a seed again.
func replaying(s uint64, history bool) job {
	return job{Start: s / batch * batch, From: s, To: s + 1, History: history, Verbose: *verbose}
}

// workerEnv is the variable that has a job for a worker, as JSON.
const workerEnv = "SIM_WORKER"

// outcome is what a worker tells of a seed, as a line of JSON after outcomePrefix.
type outcome struct {
	Seed     uint64
	Luck     string
	Problems []string `json:",omitempty"`
	History  string   `json:",omitempty"`
	Sum      string   `json:",omitempty"`
}

const outcomePrefix = "outcome: "

// enough is how many seeds that fail are shown; then no more are run.
const enough = 5

// runJobs has workers do the jobs, and reports the seeds that fail.
func runJobs(t *testing.T, jobs []job) {
	t.Helper()
	var failures atomic.Int32
	began := time.Now()
	queue := make(chan job, len(jobs))
	count := 0
	for _, j := range jobs {
		queue <- j
		count += int(j.To - j.From)
	}
	close(queue)
	var running sync.WaitGroup
	for range *workers {
		running.Go(func() {
			for j := range queue {
				if t.Context().Err() == nil {
					runJob(t, j, &failures)
				}
			}
		})
	}
	running.Wait()
	if took := time.Since(began); count > 0 {
		t.Logf("%d seeds in %v: %.0f a minute", count, took.Round(time.Millisecond), float64(count)/took.Minutes())
	}
}

// runJob has a worker do a job. It returns false if the worker had not the luck for it.
func runJob(t *testing.T, j job, failures *atomic.Int32) (done bool) {
	j.Sums = *sums
	if failures.Load() >= enough {
		return true
	}
	order, err := json.Marshal(j)
	if err != nil {
		t.Error(err)
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Error(err)
		return true
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestSimulation$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), workerEnv+"="+string(order), "GOMAXPROCS=1", "GOGC=off")
	out, in, err := os.Pipe()
	if err != nil {
		t.Error(err)
		return true
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	ended, err := startFated(cmd, j.Start)
	_ = in.Close() // it is the worker's
	if err != nil {
		t.Errorf("start a worker: %v", err)
		return true
	}
	said, done := read(t, out, j, failures)
	ended()
	if err := cmd.Wait(); err != nil {
		t.Errorf("seeds %d to %d: the worker has died: %v\n%s", j.From, j.To-1, err, said)
	}
	return done
}

// read reports a worker's outcomes, and returns what else it has said and whether it has done the job.
func read(t *testing.T, from io.Reader, j job, failures *atomic.Int32) (said string, done bool) {
	done = true
	var other bytes.Buffer
	for lines := bufio.NewReader(from); ; {
		line, err := lines.ReadString('\n')
		var o outcome
		if text, ok := strings.CutPrefix(line, outcomePrefix); !ok || json.Unmarshal([]byte(text), &o) != nil {
			other.WriteString(line)
		} else if j.Luck != "" && o.Luck != j.Luck {
			done = false
		} else {
			report(t, o, j.History, failures)
		}
		if err != nil {
			return other.String(), done
		}
	}
}

// report reports how a seed went.
func report(t *testing.T, o outcome, history bool, failures *atomic.Int32) {
	if o.Sum != "" {
		fmt.Printf("seed %d luck %s sum %s\n", o.Seed, o.Luck, o.Sum)
	}
	switch {
	case len(o.Problems) > 0 && failures.Add(1) <= enough:
		t.Errorf("%s\nseed %d failed:\n%s\nreplay: go test ./e2e/sim -v -seed %d -luck %s", o.History, o.Seed, strings.Join(o.Problems, "\n"), o.Seed, o.Luck)
	case history:
		fmt.Print(o.History)
	}
}

// work is a worker's life.
func work(t *testing.T, order string) {
	var j job
	if err := json.Unmarshal([]byte(order), &j); err != nil {
		t.Fatal(err)
	}
	r := newRunner()
	for s := j.Start; s < j.To; s++ {
		w := r.run(t, s, j.Verbose && s >= j.From)
		unlucky := j.Luck != "" && j.Luck != r.luck
		if s < j.From && !unlucky {
			continue
		}
		o := outcome{Seed: s, Luck: r.luck, Problems: w.problems}
		if len(o.Problems) > 0 || j.History {
			var text strings.Builder
			w.print(&text)
			o.History = text.String()
		}
		if j.Sums {
			o.Sum = fmt.Sprintf("%016x", w.sum())
		}
		line, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s%s\n", outcomePrefix, line)
		if unlucky {
			return
		}
	}
}

// runner runs seeds one after the other on the same disks, so that their schema is made once.
type runner struct {
	disks map[string]*disk
	runs  int

	// luck tells how the runtime's dice had fallen when the first run began. Which of two threads does what in the first
	// moment of a process is all that the seed does not decide; where the luck is the same, so is everything else.
	luck string
}

func newRunner() *runner {
	r := &runner{disks: map[string]*disk{}}
	for _, name := range names {
		r.disks[name] = &disk{}
	}
	return r
}

// run runs a seed.
func (r *runner) run(t *testing.T, s uint64, verbose bool) *world {
	t.Helper()
	if r.runs++; r.runs == 1 {
		r.luck = fmt.Sprintf("%x", rand.Uint64())
	}
	var w *world
	synctest.Test(t, func(*testing.T) {
		// Every bubble begins at the same time, but ids of version 7 never go back in a process.
		time.Sleep(time.Duration(r.runs) * 24 * time.Hour)
		w = newWorld(s, r.disks)
		w.verbose = verbose
		uuid.SetRand(source{w.random("ids")})
		defer uuid.SetRand(nil)
		w.run()
	})
	return w
}
