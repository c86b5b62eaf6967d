package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What is stored has a limit: that of the account, which `idunno broker` sets from
// --max-store and from what is free on its disk. A part of it is kept from uploads,
// so that the results and records of jobs that have been accepted find room when
// files fill the rest.
const (
	// leastReserve and mostReserve bound that part, in bytes; in between it is an
	// eighth of the whole.
	leastReserve = 8 << 20
	mostReserve  = 1 << 30
)

// Room says how much is stored and how much may be, in bytes, of one copy.
type Room struct {
	// Limit is 0 when there is none.
	Limit, Used int64
}

// reserve is the part that is kept from uploads.
func (r Room) reserve() int64 {
	return min(max(r.Limit/8, leastReserve), mostReserve, r.Limit/2)
}

// Full reports whether no more work should be accepted: what has been accepted will
// need the rest.
func (r Room) Full() bool { return r.Limit > 0 && r.Used > r.Limit-r.reserve()/2 }

// String is for people.
func (r Room) String() string {
	if r.Used >= r.Limit {
		return fmt.Sprintf("%d MiB are used, and no more fit", r.Used>>20)
	}
	return fmt.Sprintf("%d of %d MiB are used", r.Used>>20, r.Limit>>20)
}

// Room asks how much is stored.
func (b *Broker) Room(ctx context.Context) (Room, error) {
	info, err := b.JS.AccountInfo(ctx)
	if err != nil {
		return Room{}, fmt.Errorf("ask how much is stored: %w", err)
	}
	copies := int64(b.replicas())
	if tier, ok := info.Tiers["R"+strconv.FormatInt(copies, 10)]; ok {
		// Such a limit is of one copy, the use of all.
		return Room{Limit: max(tier.Limits.MaxStore, 0), Used: int64(tier.Store) / copies}, nil
	}
	return Room{Limit: max(info.Limits.MaxStore, 0) / copies, Used: int64(info.Store) / copies}, nil
}

// limitWait bounds one look at the room and what follows from it.
const limitWait = 3 * time.Second

// caps are limits of streams, in bytes, that divide the room: uploads leave the
// reserve to everything else, and results and submissions leave a quarter of the
// reserve to records and to the index of files, without which no file could be
// removed. Results may always grow by another quarter until the next look.
func (r Room) caps(bytes map[string]int64) map[string]int64 {
	if r.Limit <= 0 {
		return map[string]int64{streamObjects: -1, streamResults: -1, streamJobs: -1}
	}
	reserve := r.reserve()
	others := max(r.Used-bytes[streamObjects], 0)
	kept := max(reserve, others+reserve/2)
	return map[string]int64{
		streamObjects: max(r.Limit-kept, 1),
		streamResults: max(kept-reserve/4-max(others-bytes[streamResults], 0), 1),
		streamJobs:    bytes[streamJobs] + reserve/8,
	}
}

// limit divides what room there is among the streams.
func (b *Broker) limit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limitWait)
	defer cancel()
	room, err := b.Room(ctx)
	if err != nil {
		return err
	}
	bytes, now := make(map[string]int64), make(map[string]jetstream.StreamConfig)
	for _, name := range []string{streamObjects, streamResults, streamJobs} {
		stream, err := b.JS.Stream(ctx, name)
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", name, err)
		}
		info := stream.CachedInfo()
		bytes[name], now[name] = int64(info.State.Bytes), info.Config
	}
	return b.divide(ctx, room, room.caps(bytes), now)
}

// divide gives the streams their limits. Together they may never be more than the
// account has, in between neither: what becomes smaller goes first, and what finds
// no room yet gets what there is, and the rest in the next round.
func (b *Broker) divide(ctx context.Context, room Room, caps map[string]int64, now map[string]jetstream.StreamConfig) error {
	names := slices.SortedFunc(maps.Keys(caps), func(a, b string) int { return cmp.Compare(caps[a]-now[a].MaxBytes, caps[b]-now[b].MaxBytes) })
	for range len(names) {
		clipped := false
		for _, name := range names {
			cfg, want := now[name], caps[name]
			if room.Limit > 0 {
				left := room.Limit
				for other := range now {
					if other != name {
						left -= max(now[other].MaxBytes, 0)
					}
				}
				clipped = clipped || want > left
				want = min(want, max(left, 1))
			}
			change := want - cfg.MaxBytes
			small := room.Limit > 0 && cfg.MaxBytes > 0 && max(change, -change) < room.reserve()/16
			if change == 0 || small {
				continue
			}
			cfg.MaxBytes = want
			if _, err := b.JS.UpdateStream(ctx, cfg); err != nil {
				return fmt.Errorf("limit stream %s: %w", name, err)
			}
			now[name] = cfg
		}
		if !clipped {
			break
		}
	}
	return nil
}

// Delete removes an object. That takes a message, which has to find room in a
// bucket that is full: for a moment the bucket has no limit.
func (o *objectBucket) Delete(ctx context.Context, name string) error {
	err := o.ObjectStore.Delete(ctx, name)
	if !IsFull(err) {
		return err
	}
	info, infoErr := o.stream.Info(ctx)
	if infoErr != nil {
		return errors.Join(err, infoErr)
	}
	open := info.Config
	open.MaxBytes = -1
	if _, updateErr := o.js.UpdateStream(ctx, open); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	err = o.ObjectStore.Delete(ctx, name)
	_, _ = o.js.UpdateStream(context.WithoutCancel(ctx), info.Config) // or else the leader sets the limit soon
	return err
}

// JetStream error codes of what finds no room, and what the one for any other
// failure of a store says then.
const (
	codeAccountFull  = 10002
	codeServerFull   = 10023
	codeNoStorage    = 10047
	codeStoreFailed  = 10077
	textMaxBytes     = "maximum bytes exceeded"
	textMaxMsgs      = "maximum messages exceeded"
	textOnePerKey    = "maximum messages per subject exceeded"
	textNoSpaceLeft  = "no space left on device"
	textDiskQuota    = "disk quota exceeded"
	textFileTooLarge = "file too large"
)

// IsFull reports whether err says that there was no room.
func IsFull(err error) bool {
	if errors.Is(err, ErrFull) {
		return true
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeAccountFull, codeServerFull, codeNoStorage:
		return true
	case codeStoreFailed:
		for _, text := range []string{textMaxBytes, textMaxMsgs, textNoSpaceLeft, textDiskQuota, textFileTooLarge} {
			if strings.Contains(api.Description, text) {
				return true
			}
		}
	}
	return false
}

// asFull makes an error that says that there was no room an [ErrFull].
func asFull(err error) error {
	if IsFull(err) && !errors.Is(err, ErrFull) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
