package embedded

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Users of the server. Whoever gives no name is everyone; the server's own
// account is for this process alone.
const (
	userEveryone  = "idunno"
	userSystem    = "system"
	systemAccount = "$SYS"
)

// subjectDisconnects is where the server tells of closed connections.
const subjectDisconnects = "$SYS.ACCOUNT.*.DISCONNECT"

// withEvents opens the server's account for events to this process, under a
// password that nobody else learns.
func withEvents(opts *server.Options) (password string) {
	password = rand.Text()
	system := server.NewAccount(systemAccount)
	opts.Accounts = []*server.Account{system}
	opts.SystemAccount = systemAccount
	opts.Users = []*server.User{
		{Username: userEveryone, Password: rand.Text()},
		{Username: userSystem, Password: password, Account: system},
	}
	opts.NoAuthUser = userEveryone
	return password
}

// Closed identifies a connection that this server has closed.
type Closed struct {
	// Server is the identity of the server process, Client the connection's number there.
	Server string
	Client uint64
	// Name is what the client called itself.
	Name string
}

// Disconnects calls fn for every client connection that the server closes, about
// a millisecond after its process died, until stop is called. Connections to other
// servers of the same cluster are theirs to tell.
func (s *Server) Disconnects(fn func(Closed)) (stop func(), err error) {
	nc, err := nats.Connect("", nats.InProcessServer(s.srv), nats.Name("events"), nats.UserInfo(userSystem, s.password), nats.MaxReconnects(0))
	if err != nil {
		return nil, fmt.Errorf("listen for closed connections: %w", err)
	}
	own := s.srv.ID()
	_, err = nc.Subscribe(subjectDisconnects, func(m *nats.Msg) {
		var e struct {
			Server struct {
				ID string `json:"id"`
			} `json:"server"`
			Client struct {
				ID   uint64 `json:"id"`
				Name string `json:"name"`
			} `json:"client"`
		}
		if json.Unmarshal(m.Data, &e) == nil && e.Server.ID == own {
			fn(Closed{Server: own, Client: e.Client.ID, Name: e.Client.Name})
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("listen for closed connections: %w", err)
	}
	return nc.Close, nil
}
