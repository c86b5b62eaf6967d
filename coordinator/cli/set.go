package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/client"
)

// setting is one that `idunno set` changes.
type setting struct {
	name, args, about string
	// parse makes the values given to it a change of the settings.
	parse func(values []string) (map[string]any, error)
}

func clusterSettings() []setting {
	return []setting{
		{"fair", strings.Join(wire.FairUnits(), "|"), "what running jobs progress in at equal rates", func(v []string) (map[string]any, error) {
			if !slices.Contains(wire.FairUnits(), v[0]) {
				return nil, fmt.Errorf("fair %q: choose %s", v[0], strings.Join(wire.FairUnits(), ", "))
			}
			return map[string]any{"fair": v[0]}, nil
		}},
		{"batch-size", "MODEL N", "images in a batch of jobs that name no size; \"stored\" for as stored", func(v []string) (map[string]any, error) {
			n, err := strconv.Atoi(v[1])
			if v[1] == "stored" {
				n, err = 0, nil
			} else if n < 1 {
				err = strconv.ErrRange
			}
			if err != nil {
				return nil, fmt.Errorf("batch size %q: choose a number from 1, or stored", v[1])
			}
			return map[string]any{"batch_sizes": map[string]int{v[0]: n}}, nil
		}},
		{"result-retention", "DURATION", "how long results of ended jobs are kept, such as 720h; 0 for ever", func(v []string) (map[string]any, error) {
			d, err := time.ParseDuration(v[0])
			if err != nil || d < 0 {
				return nil, fmt.Errorf("retention %q: choose a duration such as 720h, or 0 for ever", v[0])
			}
			return map[string]any{"result_retention_ns": int64(d)}, nil
		}},
		{"forever-rounds", "N", "whole rounds of which jobs that run for ever keep results", func(v []string) (map[string]any, error) {
			n, err := strconv.Atoi(v[0])
			if err != nil || n < 1 {
				return nil, fmt.Errorf("rounds %q: choose a number from 1", v[0])
			}
			return map[string]any{"forever_rounds": n}, nil
		}},
	}
}

func (a *app) setCommand() *cobra.Command {
	var asJSON bool
	long := "Changes a setting of the whole cluster. Without arguments it shows them all; `idunno\nphase` has a command of its own.\n\n"
	for _, s := range clusterSettings() {
		long += fmt.Sprintf("  %-38s %s\n", s.name+" "+s.args, s.about)
	}
	cmd := &cobra.Command{
		Use: "set [KEY VALUE...]", Short: "change the cluster's settings, or show them", Args: between(0, 3), Long: strings.TrimSpace(long),
		Example: "  idunno set batch-size mlp 50\n  idunno set fair images\n  idunno set",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
					s, err := api.Settings(ctx)
					if err != nil {
						return err
					}
					return a.printSettings(s, asJSON)
				})
			}
			change, err := parseSetting(args)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			return a.withClient(cmd, func(ctx context.Context, api *client.Client) error {
				return a.set(ctx, api, change, asJSON)
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// parseSetting makes a change of the settings of a key and its values.
func parseSetting(args []string) (map[string]any, error) {
	var names []string
	for _, s := range clusterSettings() {
		if s.name != args[0] {
			names = append(names, s.name)
			continue
		}
		if len(args)-1 != len(strings.Fields(s.args)) {
			return nil, fmt.Errorf("%s takes %s", s.name, s.args)
		}
		return s.parse(args[1:])
	}
	return nil, fmt.Errorf("no setting %q; choose %s", args[0], strings.Join(names, ", "))
}

// set changes settings and shows what they are then.
func (a *app) set(ctx context.Context, api *client.Client, change map[string]any, asJSON bool) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	s, err := api.Set(ctx, body)
	if err != nil {
		return err
	}
	return a.printSettings(s, asJSON)
}

func (a *app) printSettings(s *wire.Settings, asJSON bool) error {
	if asJSON {
		return render.JSON(a.stdout, struct {
			Schema   int            `json:"schema_version"`
			Settings *wire.Settings `json:"settings"`
		}{render.Schema, s})
	}
	retention := "for ever"
	if s.ResultRetention > 0 {
		retention = s.ResultRetention.String()
	}
	rows := [][2]string{{"phase", cmp.Or(s.Phase, wire.PhaseBoth)}, {"fair", cmp.Or(s.Fair, wire.FairBatches)}, {"result-retention", retention}, {"forever-rounds", strconv.Itoa(s.KeptRounds())}}
	for _, model := range slices.Sorted(maps.Keys(s.BatchSizes)) {
		rows = append(rows, [2]string{"batch-size", fmt.Sprintf("%s %d", model, s.BatchSizes[model])})
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(a.stdout, "%-16s %s\n", row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
}
