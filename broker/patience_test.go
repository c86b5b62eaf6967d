package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
)

func TestPatientlyWaitsForWhatPasses(t *testing.T) {
	for _, err := range []error{context.DeadlineExceeded, nats.ErrNoResponders, nats.ErrTimeout, &jetstream.APIError{Code: 503, ErrorCode: 10008}} {
		synctest.Test(t, func(t *testing.T) {
			tries, began := 0, time.Now()
			got := broker.Patiently(t.Context(), func(context.Context) error {
				if tries++; time.Since(began) < 20*time.Second {
					return fmt.Errorf("create: %w", err)
				}
				return nil
			})
			if got != nil || tries < 10 {
				t.Errorf("%v: %d tries, %v", err, tries, got)
			}
			// Not for ever.
			if got := broker.Patiently(t.Context(), func(context.Context) error { return err }); !errors.Is(got, err) {
				t.Errorf("%v: at the end %v", err, got)
			}
			if took := time.Since(began); took > 5*time.Minute {
				t.Errorf("%v: given up after %v", err, took)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("changed my mind")
			got = broker.Patiently(ctx, func(context.Context) error { cancel(reason); return err })
			if !errors.Is(got, reason) {
				t.Errorf("%v: cancelled: %v", err, got)
			}
		})
	}
}

func TestPatientlyReturnsWhatStays(t *testing.T) {
	for _, err := range []error{errors.New("no"), broker.ErrTooFewServers, &jetstream.APIError{Code: 503, ErrorCode: 10005}, &jetstream.APIError{Code: 400, ErrorCode: 10025}} {
		tries := 0
		got := broker.Patiently(t.Context(), func(context.Context) error { tries++; return err })
		if !errors.Is(got, err) || tries != 1 {
			t.Errorf("%v: %d tries, %v", err, tries, got)
		}
	}
}
