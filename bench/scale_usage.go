package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"idunno/broker/wire"
)

// spent is the CPU time that the processes of a dispatch have taken: the broker, the
// coordinator, and this one, in which the workers are.
type spent map[string]time.Duration

func (s *scale) spent() (spent, error) {
	all := spent{}
	for name, pid := range map[string]int{"broker": s.local.PID(s.local.Names(wire.RoleBroker)[0]), "coordinator": s.local.PID(leader), "workers": os.Getpid()} {
		u, err := processUsage(pid)
		if err != nil {
			return nil, err
		}
		all[name] = u.cpu
	}
	return all, nil
}

// each is what was spent for each of n tasks since before, in microseconds.
func (after spent) each(before spent, n int) map[string]float64 {
	per := make(map[string]float64, len(after))
	for name, cpu := range after {
		per[name] = float64((cpu - before[name]).Microseconds()) / float64(n)
	}
	return per
}

// errNoUsage is returned where the system doesn't tell what a process takes.
var errNoUsage = errors.New("this system doesn't tell what a process takes (Linux does, under /proc)")

// clockTicks is the number of ticks a second in which Linux tells CPU times.
const clockTicks = 100

// processUsage asks the system what a process takes.
func processUsage(pid int) (usage, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return usage{}, fmt.Errorf("%w: %w", errNoUsage, err)
	}
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return usage{}, fmt.Errorf("%w: %w", errNoUsage, err)
	}
	u := usage{at: time.Now()}
	if u.mib, u.most, err = parseStatus(string(status)); err != nil {
		return u, err
	}
	u.cpu, err = parseStat(string(stat))
	return u, err
}

// parseStatus reads the resident memory and its peak, in MiB.
func parseStatus(text string) (now, most float64, err error) {
	for line := range strings.Lines(text) {
		var into *float64
		switch key, _, _ := strings.Cut(line, ":"); key {
		case "VmRSS":
			into = &now
		case "VmHWM":
			into = &most
		default:
			continue
		}
		fields := strings.Fields(line)
		kib, err := strconv.ParseFloat(fields[min(1, len(fields)-1)], 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%w: %q", errNoUsage, line)
		}
		*into = kib / 1024
	}
	if now == 0 || most == 0 {
		return 0, 0, errNoUsage
	}
	return now, most, nil
}

// parseStat reads the CPU time, the system's on the process's behalf included.
func parseStat(text string) (time.Duration, error) {
	// The name, in parentheses, may hold anything; behind it the time is in places 12 and 13.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, errNoUsage
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoUsage, err)
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoUsage, err)
	}
	return time.Duration(user+system) * time.Second / clockTicks, nil
}
