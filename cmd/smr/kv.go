package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
)

// kvFlags is what every kv command takes.
type kvFlags struct {
	config  string
	json    bool
	timeout time.Duration
}

func (a *app) newKVCommand() *cobra.Command {
	var f kvFlags
	cmd := &cobra.Command{
		Use:   "kv",
		Short: "Use the key-value service of a cluster",
		Long: `kv reads and writes a cluster as the client that -c names, else $SMR_CONFIG, else
./smr-cluster/client-1/config.toml. Reads are linearizable: a quorum agrees on what they return. Writes
are executed once; if the outcome of one is unknown the exit code is 3.`,
		Example: "  smr kv put greeting hello\n  smr kv get greeting\n  smr kv import people.csv --key email",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	fl := cmd.PersistentFlags()
	fl.StringVarP(&f.config, "config", "c", "", "the client's configuration file")
	fl.BoolVar(&f.json, "json", false, "print JSON, one object a line")
	fl.DurationVar(&f.timeout, "timeout", 0, "give up after this long (default: the configuration's timeout)")
	cmd.AddCommand(a.newGetCommand(&f), a.newPutCommand(&f), a.newDelCommand(&f), a.newCASCommand(&f), a.newScanCommand(&f),
		a.newImportCommand(&f), a.newDumpCommand(&f))
	return cmd
}

// withClient runs one command with a client and the configured time limit; whole says that the limit
// is not for the command as a whole.
func (a *app) withClient(cmd *cobra.Command, f *kvFlags, whole bool, run func(context.Context, *kvClient, *replica.ClientConfig) error) error {
	path, err := configPath(f.config, defaultClientConfig)
	if err != nil {
		return err
	}
	c, err := replica.LoadClientConfig(path)
	if err != nil {
		return err
	}
	if f.timeout > 0 {
		c.Timeout = f.timeout
	}
	if !cmd.Flags().Changed("log-level") {
		a.logLevel = "warn" // connections that come and go are nothing to somebody who reads one value
	}
	kc, err := openKV(cmd.Context(), c, a.logger(cmd.ErrOrStderr()))
	if err != nil {
		return explainOpen(err)
	}
	ctx := cmd.Context()
	if !whole {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	err = run(ctx, kc, c)
	return explainTimeout(errors.Join(err, kc.Close()), c.Genesis, c.Timeout)
}

func explainOpen(err error) error {
	if errors.Is(err, client.ErrSessionInUse) {
		return fmt.Errorf("%w: wait for it, or give this command a configuration of another client", err)
	}
	return err
}

// kvResult is a command's answer in JSON. Keys and values that are not UTF-8 travel in base64 in the
// fields named so.
type kvResult struct {
	Status  string  `json:"status"`
	Key     string  `json:"key,omitempty"`
	Key64   []byte  `json:"key_base64,omitempty"`
	Value   *string `json:"value,omitempty"`
	Value64 []byte  `json:"value_base64,omitempty"`
	Version uint64  `json:"version,omitempty"`
}

func newResult(key string, value []byte, found bool) kvResult {
	r := kvResult{Status: "ok"}
	r.Key, r.Key64 = textOrBytes([]byte(key))
	if found {
		text, raw := textOrBytes(value)
		if r.Value64 = raw; raw == nil {
			r.Value = &text
		}
	}
	return r
}

// answer prints the outcome of one op. A status other than ok makes the command fail.
func answer(out io.Writer, f *kvFlags, key string, rep kv.Reply, bare bool) error {
	if f.json {
		r := newResult(key, rep.Value, rep.Found)
		r.Status, r.Version = rep.Status.String(), uint64(rep.Version)
		if err := printJSON(out, r); err != nil {
			return err
		}
	}
	switch {
	case rep.Status == kv.StatusOK:
		if bare && !f.json {
			_, err := fmt.Fprintf(out, "%s\n", rep.Value)
			return err
		}
		return nil
	case rep.Status == kv.StatusMismatch && rep.Found:
		return fmt.Errorf("%s: mismatch: the value is %q", key, rep.Value)
	case rep.Status == kv.StatusMismatch:
		return fmt.Errorf("%s: mismatch: there is no value", key)
	}
	return fmt.Errorf("%s: %s", key, rep.Status)
}

// checked refuses a request over a limit before it leaves.
func checked(r kv.Request) (kv.Request, error) {
	if err := r.Check(); err != nil {
		return r, usagef("%v", err)
	}
	return r, nil
}

func (a *app) newGetCommand(f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "get KEY",
		Short:   "Print the value of a key",
		Example: "  smr kv get greeting\n  smr kv get greeting --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := checked(kv.Get(args[0]))
			if err != nil {
				return err
			}
			return a.withClient(cmd, f, false, func(ctx context.Context, c *kvClient, _ *replica.ClientConfig) error {
				rep, err := c.Query(ctx, req)
				if err != nil {
					return err
				}
				return answer(cmd.OutOrStdout(), f, args[0], rep, true)
			})
		},
	}
}

// write is a command that sends one ordered op.
func (a *app) write(f *kvFlags, cmd *cobra.Command, req kv.Request) error {
	req, err := checked(req)
	if err != nil {
		return err
	}
	return a.withClient(cmd, f, false, func(ctx context.Context, c *kvClient, _ *replica.ClientConfig) error {
		rep, err := c.Do(ctx, req)
		if err != nil {
			return err
		}
		return answer(cmd.OutOrStdout(), f, req.Key, rep, false)
	})
}

// valueArg returns the value an argument stands for: "-" is standard input.
func valueArg(cmd *cobra.Command, arg string) ([]byte, error) {
	if arg != "-" {
		return []byte(arg), nil
	}
	b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), kv.MaxValueBytes+1))
	if err == nil && len(b) > kv.MaxValueBytes {
		err = usagef("the value on standard input has more than %d bytes", kv.MaxValueBytes)
	}
	return b, err
}

func (a *app) newPutCommand(f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "put KEY VALUE",
		Short:   "Set the value of a key; VALUE - is standard input",
		Example: "  smr kv put greeting hello\n  smr kv put logo - < logo.png",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := valueArg(cmd, args[1])
			if err != nil {
				return err
			}
			return a.write(f, cmd, kv.Put(args[0], value))
		},
	}
}

func (a *app) newDelCommand(f *kvFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "del KEY",
		Short:   "Remove a key",
		Example: "  smr kv del greeting",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.write(f, cmd, kv.Delete(args[0]))
		},
	}
}

func (a *app) newCASCommand(f *kvFlags) *cobra.Command {
	var absent bool
	cmd := &cobra.Command{
		Use:     "cas KEY OLD NEW | cas --absent KEY NEW",
		Short:   "Set the value of a key if it is OLD now, or if there is none",
		Example: "  smr kv cas lock free mine\n  smr kv cas --absent lock mine",
		Args: func(cmd *cobra.Command, args []string) error {
			want := 3
			if absent {
				want = 2
			}
			return cobra.ExactArgs(want)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if absent {
				return a.write(f, cmd, kv.Create(args[0], args[1]))
			}
			return a.write(f, cmd, kv.CAS(args[0], args[1], args[2]))
		},
	}
	cmd.Flags().BoolVar(&absent, "absent", false, "expect no value")
	return cmd
}

func (a *app) newScanCommand(f *kvFlags) *cobra.Command {
	var (
		prefix, from, to string
		limit            int
	)
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Print keys and values in key order",
		Long: `scan prints the pairs of a range, a tab between key and value, page by page. Each page is a linearizable
read; writes between two pages may show in the later one. Bytes that are not printable text are quoted.`,
		Example: "  smr kv scan --prefix user/\n  smr kv scan --from a --to b --limit 10 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := kv.Scan(from, to, 0)
			if prefix != "" {
				if from != "" || to != "" {
					return usagef("give --prefix, or --from and --to")
				}
				req = kv.Prefix(prefix, 0)
			}
			if limit < 0 {
				return usagef("--limit %d: give a positive number, or 0 for all", limit)
			}
			if _, err := checked(req); err != nil {
				return err
			}
			return a.withClient(cmd, f, true, func(ctx context.Context, c *kvClient, cfg *replica.ClientConfig) error {
				w := newPairWriter(cmd.OutOrStdout(), f.json)
				err := scanPages(ctx, c, cfg.Timeout, req, limit, w.pair)
				return errors.Join(err, w.flush())
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&prefix, "prefix", "", "only keys that start so")
	fl.StringVar(&from, "from", "", "first key")
	fl.StringVar(&to, "to", "", "key to stop before")
	fl.IntVar(&limit, "limit", 0, "pairs at most (0: all)")
	return cmd
}

// scanPages reads a range page by page, each with its own time limit.
func scanPages(ctx context.Context, c *kvClient, limit time.Duration, req kv.Request, most int, each func(kv.Pair) error) error {
	for left := most; ; {
		req.Limit = 0
		if most > 0 {
			req.Limit = uint32(min(left, kv.MaxScanPairs))
		}
		page, cancel := context.WithTimeout(ctx, limit)
		rep, err := c.Query(page, req)
		cancel()
		if err != nil {
			return err
		}
		if rep.Status != kv.StatusOK {
			return fmt.Errorf("scan: %s", rep.Status)
		}
		for _, p := range rep.Pairs {
			if err := each(p); err != nil {
				return err
			}
		}
		left -= len(rep.Pairs)
		if !rep.More || most > 0 && left <= 0 {
			return nil
		}
		req = req.Next(rep)
	}
}
