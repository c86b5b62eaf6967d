package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"idunno/coordinator/cli/render"
	"idunno/objectstore"
)

func (a *app) sdfsCommand() *cobra.Command {
	cmd := group("sdfs", "the replicated file store: put, get, ls, rm, store, versions",
		a.sdfsPut(), a.sdfsGet(), a.sdfsLs(), a.sdfsRm(), a.sdfsStore(), a.sdfsVersions())
	cmd.Long = `The SDFS keeps named files in versions, replicated by the cluster's servers and
checked by their digest at every read. A name stands for its newest version, NAME@N
for one. Models are files under models/, data sets under data/.`
	return cmd
}

func (a *app) sdfsPut() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "put FILE [NAME]", Short: "store a file as a new version", Args: between(1, 2),
		Long: `Stores FILE ("-" for standard input) under NAME, by default the file's own name.
Contents that are the newest version already make no new one. An upload that is
interrupted leaves the old version.`,
		Example: "  idunno sdfs put notes.txt\n  tar c results | idunno sdfs put - backups/results.tar",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 2 {
				name = args[1]
			} else if args[0] != "-" {
				name = filepath.Base(args[0])
			}
			if name == "" {
				return usage(cmd, "standard input has no name; give it one: put - NAME")
			}
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				return a.putFile(ctx, store, args[0], name, asJSON)
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) putFile(ctx context.Context, store *objectstore.Store, file, name string, asJSON bool) error {
	in, size := a.stdin, int64(0)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.IsDir() {
			return fmt.Errorf("%s is a directory: put its files one by one, or a tar of it", file)
		}
		in, size = f, info.Size()
	}
	var report func(read, sent int64)
	if size > barFrom {
		p := render.NewProgress(a.stderr)
		defer p.Close()
		report = putBars(p, file, size)
	}
	v, err := store.PutReporting(ctx, name, in, report)
	if err != nil {
		return err
	}
	return a.printVersion(name, v, asJSON)
}

// barFrom is the size from which a transfer shows a bar.
const barFrom = 16 << 20

// putBars shows how much of a file has been read, for its digest, and then how
// much of it has been sent, if it has to be.
func putBars(p *render.Progress, file string, size int64) func(read, sent int64) {
	show := func(bar *render.Bar, done int64) {
		bar.SetShare(float64(done)/float64(size), render.Bytes(done)+" of "+render.Bytes(size))
	}
	reading := p.Share("read " + file)
	var sending *render.Bar
	return func(read, sent int64) {
		if sent == 0 {
			show(reading, read)
			return
		}
		if sending == nil {
			sending = p.Share("send " + file)
		}
		show(sending, sent)
	}
}

func (a *app) printVersion(name string, v objectstore.Version, asJSON bool) error {
	if asJSON {
		return render.JSON(a.stdout, struct {
			Schema int    `json:"schema_version"`
			Name   string `json:"name"`
			objectstore.Version
		}{render.Schema, name, v})
	}
	_, err := fmt.Fprintf(a.stdout, "%s@%d  %s  sha256:%s\n", name, v.Version, render.Bytes(v.Size), v.Digest)
	return err
}

func (a *app) sdfsGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME[@N] [FILE]", Short: "fetch a file, its newest version or the N-th", Args: between(1, 2),
		Long: `Fetches a file into FILE, by default the last part of its name in this directory;
"-" writes to standard output. FILE appears, or is replaced, only when it is whole
and its digest is right.`,
		Example: "  idunno sdfs get models/mlp mlp.onnx\n  idunno sdfs get data/mnist@1 - | head -c 300",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _, _ := strings.Cut(args[0], "@")
			file := path.Base(name)
			if len(args) == 2 {
				file = args[1]
			}
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				if file == "-" {
					_, err := store.Get(ctx, args[0], a.stdout)
					return err
				}
				v, err := getFile(ctx, store, args[0], file)
				if err != nil {
					return err
				}
				a.talk("%s: version %d of %s, %s", file, v.Version, name, render.Bytes(v.Size))
				return nil
			})
		},
	}
}

func getFile(ctx context.Context, store *objectstore.Store, ref, file string) (v objectstore.Version, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return v, err
	}
	defer func() {
		err = errors.Join(err, tmp.Close())
		if err == nil {
			err = os.Rename(tmp.Name(), file)
		}
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	if v, err = store.Get(ctx, ref, tmp); err != nil {
		return v, err
	}
	return v, tmp.Chmod(0o644)
}

func (a *app) sdfsLs() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls [PREFIX]", Short: "list files", Args: between(0, 1),
		Example: "  idunno sdfs ls\n  idunno sdfs ls models/ --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := strings.Join(args, "")
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				files, err := store.List(ctx, prefix)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int                `json:"schema_version"`
						Files  []objectstore.File `json:"files"`
					}{render.Schema, list(files)})
				}
				var rows [][]string
				for _, f := range files {
					rows = append(rows, []string{f.Name, strconv.Itoa(f.Newest.Version), strconv.Itoa(f.Versions),
						render.Bytes(f.Newest.Size + f.Newest.PartsSize), render.Time(f.Newest.Created), f.Newest.Digest[:12]})
				}
				if len(rows) == 0 {
					a.talk("no files")
					return nil
				}
				render.Table(a.stdout, []render.Column{render.L("NAME"), render.R("NEWEST"), render.R("KEPT"), render.R("SIZE"),
					render.L("STORED"), render.L("SHA256")}, rows)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) sdfsRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME[@N]", Short: "remove a file with all its versions, or one version", Args: nargs(1),
		Example: "  idunno sdfs rm notes.txt\n  idunno sdfs rm models/mlp@2",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				if err := store.Remove(ctx, args[0]); err != nil {
					return err
				}
				a.talk("removed %s", args[0])
				return nil
			})
		},
	}
}

func (a *app) sdfsStore() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "store", Short: "what is held where: the versions of every file and their servers", Args: nargs(0),
		Example: "  idunno sdfs store\n  idunno sdfs store --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				h, err := store.Holdings(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema int `json:"schema_version"`
						*objectstore.Holdings
					}{render.Schema, h})
				}
				a.printHoldings(h)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printHoldings(h *objectstore.Holdings) {
	var files, servers [][]string
	for _, f := range h.Files {
		files = append(files, []string{fmt.Sprintf("%s@%d", f.Name, f.Version), strconv.Itoa(f.Objects), render.Bytes(f.Bytes), strings.Join(f.Servers, " ")})
	}
	for _, s := range h.Servers {
		state := "current"
		switch {
		case s.Offline:
			state = "offline"
		case !s.Current:
			state = "behind"
		case s.Leader:
			state = "current, leads"
		}
		servers = append(servers, []string{s.Name, state, render.Count(int64(s.Objects)), render.Bytes(s.Bytes), render.Bytes(int64(s.Stored))})
	}
	render.Table(a.stdout, []render.Column{render.L("FILE"), render.R("OBJECTS"), render.R("SIZE"), render.L("SERVERS")}, files)
	fmt.Fprintln(a.stdout)
	render.Table(a.stdout, []render.Column{render.L("SERVER"), render.L("STATE"), render.R("OBJECTS"), render.R("SIZE"), render.R("ON DISK")}, servers)
}

func (a *app) sdfsVersions() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "versions NAME", Short: "list the versions of a file, newest first", Args: nargs(1),
		Example: "  idunno sdfs versions models/mlp\n  idunno sdfs versions models/mlp --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd, func(ctx context.Context, store *objectstore.Store) error {
				versions, err := store.Versions(ctx, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return render.JSON(a.stdout, struct {
						Schema   int                   `json:"schema_version"`
						Name     string                `json:"name"`
						Versions []objectstore.Version `json:"versions"`
					}{render.Schema, args[0], list(versions)})
				}
				var rows [][]string
				for _, v := range versions {
					rows = append(rows, []string{strconv.Itoa(v.Version), render.Bytes(v.Size + v.PartsSize), render.Time(v.Created), v.Digest})
				}
				render.Table(a.stdout, []render.Column{render.R("VERSION"), render.R("SIZE"), render.L("STORED"), render.L("SHA256")}, rows)
				return nil
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
