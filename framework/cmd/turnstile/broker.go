package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnstile-go/turnstile/framework/cmd/turnstile/internal/process"
	"github.com/turnstile-go/turnstile/framework/event/jetstream/jetstreamserver"
	"github.com/turnstile-go/turnstile/framework/event/stan/stanserver"
)

func brokerCommand() *cobra.Command {
	var kind, dir, cluster, token string
	var port int
	c := &cobra.Command{
		Use:   "broker",
		Short: "Run a NATS Streaming or JetStream server, as dev and demo do in a process of its own",
		Long: `Runs a NATS Streaming server, or with --kind jetstream a NATS server with JetStream, on 127.0.0.1 until SIGTERM or
SIGINT. dev and demo start it as a child process, so that it can be killed like a real one. Its log is JSON at level
LOG_LEVEL (WARN if not set). When it is ready it writes its address to the file READY_FILE, if that is set.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVar(&kind, "kind", "stan", "what to run: stan or jetstream")
	c.Flags().StringVar(&dir, "dir", "", "folder to keep messages in; if empty, they are forgotten at the end")
	c.Flags().IntVar(&port, "port", 4222, "port to listen on; 0 picks a free one")
	c.Flags().StringVar(&cluster, "cluster-id", "turnstile", "NATS Streaming cluster id")
	c.Flags().StringVar(&token, "token", "", "what clients of JetStream must have in their URL, as in nats://token@127.0.0.1:4222; nothing if empty")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		log, err := jsonLog(slog.LevelWarn)
		if err != nil {
			return err
		}
		var server interface {
			URL() string
			Shutdown()
		}
		switch kind {
		case "stan":
			server, err = stanserver.Start(stanserver.Options{Dir: dir, Port: port, ClusterID: cluster, Log: log})
		case "jetstream":
			server, err = jetstreamserver.Start(jetstreamserver.Options{Dir: dir, Port: port, Token: token, Log: log})
		default:
			return fmt.Errorf("--kind %s: there are stan and jetstream", kind)
		}
		if err != nil {
			return err
		}
		defer server.Shutdown()
		if file := os.Getenv("READY_FILE"); file != "" {
			if err := ready(file, server.URL()); err != nil {
				return err
			}
		}
		<-cmd.Context().Done()
		return nil
	}
	return c
}

// ready writes the file in one step: who sees it sees all of it.
func ready(file, url string) error {
	text, err := json.Marshal(process.Ready{
		Name: "broker", PID: os.Getpid(), Addresses: map[string]string{"nats": strings.TrimPrefix(url, "nats://")},
	})
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".ready-*")
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write READY_FILE: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
