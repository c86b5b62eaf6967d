package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house, held by a test: who may import whom, one comment a
// package, no file over 600 lines, and names of streams, subjects and buckets in
// one file only.

const (
	root     = "../.."
	module   = "idunno/"
	maxLines = 600
	topology = "broker/topology.go"
)

// mayImport lists, for a package and what lies below it, the packages of this
// module it may import, "..." included. The most specific entry counts. Packages
// of one room's subtree that share its entry may import each other.
var mayImport = map[string][]string{
	".":                     {"coordinator/cli"},
	"broker":                {"broker/wire"},
	"broker/wire":           {},
	"broker/embedded":       {},
	"broker/brokertest":     {"broker", "broker/embedded"},
	"objectstore":           {},
	"models":                {"models/dataset", "models/engine", "models/internal/kernel", "models/onnx"},
	"models/_gen":           {},
	"models/arch":           {"models/onnx/encode"},
	"models/dataset":        {},
	"models/dataset/source": {"models/dataset"},
	"models/engine":         {"models/internal/kernel", "models/internal/ops", "models/onnx"},
	"models/internal":       {},
	"models/internal/ops":   {"models/internal/kernel", "models/onnx"},
	"models/onnx":           {},
	"models/suite":          {"models/engine", "models/onnx"},
	"models/train":          {"models/dataset", "models/internal/kernel", "models/onnx/encode"},
	"models/zoo":            {},
	"models/zoo/_gen":       {"models/dataset", "models/train"},
	"worker":                {"broker", "broker/wire", "objectstore", "models/..."},
	"coordinator":           {"coordinator/archive", "coordinator/sched", "coordinator/roll", "coordinator/lease", "broker", "broker/wire", "objectstore"},
	"coordinator/archive":   {"broker/wire", "objectstore"},
	"coordinator/sched":     {"broker/wire"},
	"coordinator/roll":      {"coordinator/sched", "broker", "broker/wire"},
	"coordinator/lease":     {},
	"coordinator/client":    {"coordinator/archive", "broker", "broker/wire", "objectstore"},
	"coordinator/cluster":   {"coordinator", "coordinator/client", "worker", "broker", "broker/wire", "broker/embedded", "objectstore", "models/..."},
	"coordinator/cli":       {"..."},
	"bench":                 {"bench/chaos", "bench/powercut", "broker", "broker/wire", "broker/embedded", "objectstore", "coordinator", "coordinator/sched", "coordinator/lease", "coordinator/client", "coordinator/cluster", "worker", "models/..."},
	"bench/chaos":           {"broker", "broker/wire", "broker/embedded", "objectstore", "coordinator", "coordinator/sched", "coordinator/lease", "coordinator/client", "coordinator/cluster", "worker", "models/..."},
	"bench/powercut":        {},
	"bench/peers":           {"bench", "models/..."},

	// The simulator runs the roles over a cluster of its own.
	"coordinator/cluster/sim": {"broker", "broker/wire", "coordinator", "coordinator/cluster", "coordinator/sched", "worker"},
}

// forTests lists packages that only tests import.
var forTests = []string{"broker/brokertest", "coordinator/cluster/sim", "models/internal/onnxtest"}

// Tests may also use these, for a real server.
var testsMayImport = []string{"bench", "coordinator/cli", "broker", "broker/brokertest", "broker/wire", "broker/embedded", "coordinator/client", "objectstore", "models/..."}

type goFile struct {
	path string // from the root, with slashes
	file *ast.File
	fset *token.FileSet
	test bool
}

// sources parses the Go files of the module, of generators (_gen) and of the
// modules inside of it.
func sources(t *testing.T) []goFile {
	t.Helper()
	var list []goFile
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p == root {
				return nil
			}
			if strings.HasPrefix(name, ".") || name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		list = append(list, goFile{path: filepath.ToSlash(rel), file: file, fset: fset, test: strings.HasSuffix(name, "_test.go")})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 50 {
		t.Fatalf("only %d files found: is %s the module's root?", len(list), root)
	}
	return list
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		dir := path.Dir(s.path)
		for _, spec := range s.file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(imported, "github.com/nats-io/nats-server") && dir != "broker/embedded" {
				t.Errorf("%s imports nats-server; only broker/embedded may", s.path)
			}
			own, ok := strings.CutPrefix(imported, module)
			if !ok {
				if dir == "broker/wire" && !s.test && strings.Contains(imported, ".") {
					t.Errorf("%s imports %s; broker/wire uses the standard library only", s.path, imported)
				}
				continue
			}
			if !s.test && slices.Contains(forTests, own) {
				t.Errorf("%s imports %s, which is for tests", s.path, own)
			}
			if own == dir || allowed(ruleFor(t, dir), own) || s.test && allowed(testsMayImport, own) {
				continue
			}
			t.Errorf("%s imports %s, which its room may not", s.path, own)
		}
	}
}

// ruleFor finds the entry of a package or of the nearest folder above it.
func ruleFor(t *testing.T, dir string) []string {
	for d := dir; ; d = path.Dir(d) {
		if rule, ok := mayImport[d]; ok && (d != "." || dir == ".") {
			return rule
		}
		if d == "." {
			t.Fatalf("folder %s belongs to no room", dir)
		}
	}
}

func allowed(rule []string, pkg string) bool {
	return slices.ContainsFunc(rule, func(r string) bool {
		if r == "..." || r == pkg {
			return true
		}
		room, ok := strings.CutSuffix(r, "/...")
		return ok && (pkg == room || strings.HasPrefix(pkg, room+"/"))
	})
}

func TestOneCommentAPackage(t *testing.T) {
	comments := make(map[string][]string)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		dir := path.Dir(s.path)
		if comments[dir] == nil {
			comments[dir] = []string{}
		}
		if s.file.Doc != nil {
			comments[dir] = append(comments[dir], s.path)
		}
	}
	for dir, files := range comments {
		if len(files) != 1 {
			t.Errorf("package %s has %d package comments, want one: %v", dir, len(files), files)
		}
	}
}

func TestFileSize(t *testing.T) {
	generated := regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	for _, s := range sources(t) {
		lines := s.fset.File(s.file.Pos()).LineCount()
		if lines <= maxLines || ast.IsGenerated(s.file) || len(s.file.Comments) > 0 && generated.MatchString(s.file.Comments[0].Text()) {
			continue
		}
		t.Errorf("%s has %d lines; split it by responsibility at %d", s.path, lines, maxLines)
	}
}

func TestNamesStandInTopologyOnly(t *testing.T) {
	files := sources(t)
	names := topologyNames(t, files)
	for _, s := range files {
		if s.path == topology || s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			if name := names.FindString(lit.Value); name != "" {
				t.Errorf("%s:%d spells %q; take the name from %s", s.path, s.fset.Position(lit.Pos()).Line, name, topology)
			}
			return true
		})
	}
}

// topologyNames collects the names that the topology gives, as one expression.
func topologyNames(t *testing.T, files []goFile) *regexp.Regexp {
	t.Helper()
	at := slices.IndexFunc(files, func(s goFile) bool { return s.path == topology })
	if at < 0 {
		t.Fatalf("%s is missing", topology)
	}
	var names []string
	ast.Inspect(files[at].file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		name, err := strconv.Unquote(lit.Value)
		if err == nil && regexp.MustCompile(`^(IDUNNO_|idunno_|idunno\.)[A-Za-z_.]+$`).MatchString(name) {
			names = append(names, regexp.QuoteMeta(name))
		}
		return true
	})
	if len(names) < 15 {
		t.Fatalf("only %d names found in %s", len(names), topology)
	}
	return regexp.MustCompile(fmt.Sprintf(`\b(%s)(\b|$)`, strings.Join(names, "|")))
}
