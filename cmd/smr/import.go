package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
)

// importWindow is how many rows are on their way at once.
const importWindow = 1024

// importResult is how an import ended.
type importResult struct {
	Rows         int     `json:"rows"`
	Acknowledged int     `json:"acknowledged"`
	Rejected     int     `json:"rejected"`
	Unknown      int     `json:"unknown"`
	RejectedFile string  `json:"rejected_file,omitempty"`
	Seconds      float64 `json:"seconds"`
}

func (a *app) newImportCommand(f *kvFlags) *cobra.Command {
	var (
		c        columns
		keep     bool
		rejected string
	)
	cmd := &cobra.Command{
		Use:   "import FILE --key COLUMN",
		Short: "Put every row of a .csv, .tsv or .jsonl file",
		Long: `import puts every row of FILE under the value of its --key column: the row as a JSON object, or with
--value COLUMN that column alone. CSV and TSV files start with a header line; a .gz file is read through
gzip. The file is read as it goes, so it may be large.

A malformed row ends the import with its number and the reason; rows acknowledged before stay. With
--keep-going such rows are collected in a file instead, and the exit code is still not 0.`,
		Example: "  smr kv import people.csv --key email\n  smr kv import dump.jsonl --key key --value value --keep-going",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.key == "" {
				return usagef("which column is the key? give --key COLUMN")
			}
			if rejected == "" {
				rejected = args[0] + ".rejected"
			}
			in, err := openImport(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			rows, err := newRowReader(args[0], in, c)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return a.withClient(cmd, f, true, func(ctx context.Context, kc *kvClient, cfg *replica.ClientConfig) error {
				im := &importer{client: kc, limit: cfg.Timeout, progress: newProgress(cmd.ErrOrStderr(), "rows", 0)}
				if keep {
					im.rejects = &rejectFile{path: rejected}
				}
				res, err := im.run(ctx, rows)
				im.progress.end()
				if f.json {
					err = errors.Join(err, printJSON(cmd.OutOrStdout(), res))
				} else {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d rows acknowledged in %.1f s, %d rejected\n", res.Acknowledged, res.Seconds, res.Rejected)
				}
				return err
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&c.key, "key", "", "column (or field) that is the key")
	fl.StringVar(&c.value, "value", "", "column that is the value (default: the whole row, as a JSON object)")
	fl.BoolVar(&keep, "keep-going", false, "collect malformed rows in a file and go on")
	fl.StringVar(&rejected, "rejected", "", "that file; it must not exist (default FILE.rejected)")
	return cmd
}

// openImport opens a file, through gzip if its name says so.
func openImport(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(path, ".gz") {
		return f, nil
	}
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// importer puts rows, many at once. It belongs to one goroutine.
type importer struct {
	client   *kvClient
	limit    time.Duration // for one row
	rejects  *rejectFile   // nil: the first malformed row ends the import
	progress *progress
	res      importResult
}

// sent is a row on its way.
type sent struct {
	row    row
	future *client.Future[kv.Reply]
}

// run puts all rows. However it ends, every row that was sent has been waited for.
func (im *importer) run(ctx context.Context, rows *rowReader) (importResult, error) {
	began := time.Now()
	window := make([]sent, 0, importWindow)
	var stop error
	for stop == nil {
		r, err := rows.Next()
		var bad *rowError
		switch {
		case err == nil:
			im.res.Rows++
			window = append(window, sent{r, im.client.Submit(kv.Put(r.key, r.value))})
			if len(window) == importWindow {
				stop = im.settle(ctx, window[:importWindow/2])
				window = append(window[:0], window[importWindow/2:]...)
			}
		case errors.As(err, &bad):
			im.res.Rows++
			im.res.Rejected++
			stop = im.reject(bad)
		default:
			stop = err
		}
	}
	err := im.settle(ctx, window)
	if !errors.Is(stop, io.EOF) {
		err = errors.Join(stop, err)
	} else if err == nil && im.res.Rejected > 0 {
		err = fmt.Errorf("%d of %d rows were rejected: see %s", im.res.Rejected, im.res.Rows, im.rejects.path)
	}
	if im.rejects != nil {
		if im.res.Rejected > 0 {
			im.res.RejectedFile = im.rejects.path
		}
		err = errors.Join(err, im.rejects.close())
	}
	im.res.Seconds = time.Since(began).Seconds()
	return im.res, err
}

// settle waits for rows on their way and returns the first failure.
func (im *importer) settle(ctx context.Context, window []sent) (first error) {
	for _, s := range window {
		limit, cancel := context.WithTimeout(ctx, im.limit)
		rep, err := s.future.Wait(limit)
		cancel()
		if err == nil && rep.Status != kv.StatusOK {
			err = errors.New(rep.Status.String())
		}
		switch {
		case err == nil:
			im.res.Acknowledged++
			im.progress.set(im.res.Acknowledged)
			continue
		case errors.Is(err, client.ErrUnknown):
			im.res.Unknown++
		}
		if first == nil {
			first = fmt.Errorf("row %d (line %d), key %q: %w", s.row.n, s.row.line, s.row.key, err)
		}
	}
	return first
}

// reject keeps a malformed row's error and goes on, or ends the import.
func (im *importer) reject(bad *rowError) error {
	if im.rejects == nil {
		return bad
	}
	return im.rejects.add(bad)
}

// rejectFile collects malformed rows. The file is made for the first of them.
type rejectFile struct {
	path string
	f    *os.File
	w    *bufio.Writer
}

func (r *rejectFile) add(bad *rowError) error {
	if r.f == nil {
		f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("%w: %w; remove it or choose another with --rejected", bad, err)
		}
		r.f, r.w = f, bufio.NewWriter(f)
	}
	_, err := fmt.Fprintf(r.w, "%s\n", bad)
	return err
}

func (r *rejectFile) close() error {
	if r.f == nil {
		return nil
	}
	return errors.Join(r.w.Flush(), r.f.Close())
}
