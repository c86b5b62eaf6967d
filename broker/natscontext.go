package broker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
)

// natsContext is the part of a context file of the `nats` client that iDunno
// honours. The client's own library would bring fifty packages for these fields.
type natsContext struct {
	URL      string `json:"url"`
	Token    string `json:"token"`
	User     string `json:"user"`
	Password string `json:"password"`
	Creds    string `json:"creds"`
	NKey     string `json:"nkey"`
	Cert     string `json:"cert"`
	Key      string `json:"key"`
	CA       string `json:"ca"`
}

const maxContextFile = 1 << 20

// SelectedContext is the name of the context that `nats context select` chose,
// or "" when none is. NATS_CONTEXT wins over the selection.
func SelectedContext(getenv func(string) string) string {
	if name := getenv("NATS_CONTEXT"); name != "" {
		return name
	}
	dir, err := contextDir(getenv)
	if err != nil {
		return ""
	}
	p, err := os.ReadFile(filepath.Join(dir, "context.txt"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(p))
}

func contextDir(getenv func(string) string) (string, error) {
	base := getenv("XDG_CONFIG_HOME")
	if base == "" {
		home := getenv("HOME")
		if home == "" {
			return "", fmt.Errorf("%w: neither XDG_CONFIG_HOME nor HOME is set", ErrUnknownContext)
		}
		base = filepath.Join(home, ".config")
	}
	return filepath.Join(base, "nats"), nil
}

// readContext reads a context by name, or by path when name is one.
func readContext(name string) (*natsContext, error) {
	path := name
	if !filepath.IsAbs(name) {
		if name != filepath.Base(name) {
			return nil, fmt.Errorf("%w %q: give a name or an absolute path", ErrUnknownContext, name)
		}
		dir, err := contextDir(os.Getenv)
		if err != nil {
			return nil, err
		}
		path = filepath.Join(dir, "context", name+".json")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w %q (%v): list them with `nats context ls`", ErrUnknownContext, name, err)
	}
	if info.Size() > maxContextFile {
		return nil, fmt.Errorf("%w %q: the file has %d bytes", ErrUnknownContext, name, info.Size())
	}
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w %q (%v)", ErrUnknownContext, name, err)
	}
	var c natsContext
	if err := json.Unmarshal(p, &c); err != nil {
		return nil, fmt.Errorf("%w %q: not valid JSON (%v)", ErrUnknownContext, name, err)
	}
	return &c, nil
}

func (c *natsContext) options() []nats.Option {
	var opts []nats.Option
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.NKey != "" {
		if opt, err := nats.NkeyOptionFromSeed(c.NKey); err == nil {
			opts = append(opts, opt)
		}
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	return opts
}
