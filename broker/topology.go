package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker/wire"
)

// Names of streams and buckets. Nothing outside this file spells one.
const (
	streamJobs    = "IDUNNO_JOBS"
	streamTasks   = "IDUNNO_TASKS"
	streamResults = "IDUNNO_RESULTS"
	streamTries   = "IDUNNO_ATTEMPTS"
	streamDead    = "IDUNNO_DEAD"
	bucketState   = "idunno_state"
	bucketFiles   = "idunno_files"
	bucketObjects = "idunno_objects"
	// The client keeps the objects of a bucket in a stream named after it.
	streamObjects = "OBJ_" + bucketObjects
	prefixChunks  = "$O." + bucketObjects + ".C."
	bucketLease   = "idunno_lease"
	// The client keeps a key-value bucket in a stream named after it.
	streamLease = "KV_" + bucketLease
	streamState = "KV_" + bucketState
	streamFiles = "KV_" + bucketFiles
	prefixFiles = "$KV." + bucketFiles + "."
	// apiStepDown is where a stream's leader is asked to hand over, apiStepDownQueue
	// where a queue's is.
	apiStepDown      = "$JS.API.STREAM.LEADER.STEPDOWN."
	apiStepDownQueue = "$JS.API.CONSUMER.LEADER.STEPDOWN."
	// apiMessage is where a stream's leader is asked for a message, apiNext where a
	// queue is asked for tasks.
	apiMessage = "$JS.API.STREAM.MSG.GET."
	apiNext    = "$JS.API.CONSUMER.MSG.NEXT."
)

// Subjects that users may address with any NATS client.
const (
	SubjectJobs   = "idunno.jobs"
	SubjectSubmit = "idunno.submit"
	SubjectJob    = "idunno.job"
	SubjectList   = "idunno.list"
	SubjectStats  = "idunno.stats"
	SubjectNodes  = "idunno.nodes"
	SubjectCancel = "idunno.cancel"
	SubjectDLQ    = "idunno.dlq"
	SubjectRetry  = "idunno.dlq.retry"
	SubjectPause  = "idunno.pause"
	SubjectResume = "idunno.resume"
	// SubjectSettings reads the cluster's settings, or changes those that it is given.
	SubjectSettings    = "idunno.settings"
	SubjectAssignments = "idunno.assignments"
)

const (
	prefixTasks     = "idunno.tasks."
	prefixResults   = "idunno.results."
	prefixTries     = "idunno.attempts."
	prefixDead      = "idunno.dead."
	prefixHeartbeat = "idunno.heartbeat."
	prefixPing      = "idunno.ping."
	prefixProgress  = "idunno.progress."
	prefixRescue    = "idunno.rescue."
	prefixGiven     = "idunno.given."
	// prefixStore is where brokers take results that they store together; those that
	// do are members of groupStore.
	prefixStore = "idunno.store."
	groupStore  = "store"
	// SubjectClosed is where brokers tell of connections that closed.
	SubjectClosed = "idunno.closed"
	// SubjectWake tells workers that there are tasks to pull.
	SubjectWake = "idunno.wake"
	// SubjectLeads is where workers hear which jobs are ahead of the others.
	SubjectLeads = "idunno.leads"
	// SubjectHeartbeats matches every node's heartbeat.
	SubjectHeartbeats = prefixHeartbeat + "*"
)

// Keys of the state and lease buckets.
const (
	// KeyActive holds the table of jobs that have work.
	KeyActive = "active"
	// KeySettings holds the cluster's settings, KeyAssignments which nodes work for
	// which job.
	KeySettings    = "settings"
	KeyAssignments = "assignments"
	// KeyLeader holds the coordinator's lease.
	KeyLeader = "leader"
	keyJob    = "job."
	keyID     = "id."
	// KeyJobs matches every job record.
	KeyJobs = keyJob + "*"
	keyFold = "fold."
	// KeyFolds matches every checkpoint.
	KeyFolds = keyFold + "*"
)

const (
	// AckWait is how long a task may go without a sign of life before it is
	// delivered again. It is the backstop: a dead worker's tasks are released at once.
	AckWait = 3 * time.Second
	// LeaseTTL is how long a silent leader keeps its lease.
	LeaseTTL = 2 * time.Second
	// nak is the message that hands a task back when published to its reply subject.
	nak = "-NAK"

	maxInFlight = 20_000
	duplicates  = 2 * time.Minute
	// maxTriesAge is how long a try counts should nobody clean up after its job.
	maxTriesAge = 7 * 24 * time.Hour
)

// SubjectHeartbeat is where a node tells that it lives.
func SubjectHeartbeat(node string) string { return prefixHeartbeat + node }

// SubjectPing is where a node answers; no responder there means that it is gone.
func SubjectPing(node string) string { return prefixPing + node }

// SubjectRescue is where a worker is given the tasks of a dead one.
func SubjectRescue(node string) string { return prefixRescue + node }

// SubjectGiven matches what the queues answer a node: the tasks that it is given. Whoever
// listens sees each, under the task's subject, as soon as the node could.
func SubjectGiven(node string) string { return prefixGiven + node + ".>" }

// Given reads a message to [SubjectGiven]: which node was given which task. It reports
// false for an answer without one.
func Given(m *Message) (node string, job uint64, task int, ok bool) {
	job, task, ok = TaskOf(m.Subject)
	rest, toNode := strings.CutPrefix(m.To, prefixGiven)
	node, all := strings.CutSuffix(rest, ".>")
	return node, job, task, ok && toNode && all
}

// SubjectProgress is where the progress of a training job is told.
func SubjectProgress(job uint64) string { return prefixProgress + strconv.FormatUint(job, 10) }

// SubjectTask is the subject of a task.
func SubjectTask(job uint64, task int) string { return prefixTasks + jobTask(job, task) }

// SubjectResult is the subject of a task's result: one message for ever.
func SubjectResult(job uint64, task int) string { return prefixResults + jobTask(job, task) }

// SubjectTries is the subject of the tries of a task that ended without a result.
func SubjectTries(job uint64, task int) string { return prefixTries + jobTask(job, task) }

// SubjectDead is the subject of a task's dead letter: one message for ever.
func SubjectDead(job uint64, task int) string { return prefixDead + jobTask(job, task) }

// KeyJob is the key of a job's record.
func KeyJob(job uint64) string { return keyJob + strconv.FormatUint(job, 10) }

// KeyID is the key of what is known of the job with the id of a document. An id may
// hold what a key may not.
func KeyID(id string) string {
	sum := sha256.Sum256([]byte(id))
	return keyID + base64.RawURLEncoding.EncodeToString(sum[:])
}

// MessageID is the identifier of a submission with the id of a document: the stream
// takes it for the same one when it comes again within minutes.
func MessageID(id string) string { return "idunno-" + KeyID(id) }

// JobOfKey is the inverse of [KeyJob].
func JobOfKey(key string) (uint64, bool) { return numberOf(key, keyJob) }

// KeyFold is the key of a job's checkpoint: what its results so far come to.
func KeyFold(job uint64) string { return keyFold + strconv.FormatUint(job, 10) }

// JobOfFold is the inverse of [KeyFold].
func JobOfFold(key string) (uint64, bool) { return numberOf(key, keyFold) }

func numberOf(key, prefix string) (uint64, bool) {
	s, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// subjectStore is where a broker takes a task's result, to store it with others.
func subjectStore(job uint64, task int) string { return prefixStore + jobTask(job, task) }

// resultOfStore is the result's subject for one of [subjectStore]'s.
func resultOfStore(subject string) (string, bool) {
	s, ok := strings.CutPrefix(subject, prefixStore)
	if _, _, valid := TaskOfResult(prefixResults + s); !ok || !valid {
		return "", false
	}
	return prefixResults + s, true
}

func jobTask(job uint64, task int) string {
	return strconv.FormatUint(job, 10) + "." + strconv.Itoa(task)
}

// TaskOfResult is the inverse of [SubjectResult].
func TaskOfResult(subject string) (job uint64, task int, ok bool) {
	return parseJobTask(subject, prefixResults)
}

// TaskOf is the inverse of [SubjectTask].
func TaskOf(subject string) (job uint64, task int, ok bool) {
	return parseJobTask(subject, prefixTasks)
}

func parseJobTask(subject, prefix string) (job uint64, task int, ok bool) {
	s, ok := strings.CutPrefix(subject, prefix)
	if !ok {
		return 0, 0, false
	}
	left, right, _ := strings.Cut(s, ".")
	job, err := strconv.ParseUint(left, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	task, err = strconv.Atoi(right)
	return job, task, err == nil
}

func tasksOf(job uint64) string   { return prefixTasks + strconv.FormatUint(job, 10) + ".>" }
func resultsOf(job uint64) string { return prefixResults + strconv.FormatUint(job, 10) + ".>" }

// consumerOf names the consumer of a job's tasks in a life of the task stream. The
// stream lives in memory and counts from 1 again in its next life; an
// acknowledgement from this one must not find another task in its place there.
func consumerOf(job uint64, created time.Time) string {
	return "job-" + strconv.FormatUint(job, 10) + "-" + strconv.FormatInt(created.UnixNano(), 36)
}

func triesOf(job uint64) string { return prefixTries + strconv.FormatUint(job, 10) + ".>" }

// deadOf matches the dead letters of a job, or with 0 those of all jobs.
func deadOf(job uint64) string {
	if job == 0 {
		return prefixDead + "*.*"
	}
	return prefixDead + strconv.FormatUint(job, 10) + ".*"
}

// taskOfDead is the inverse of [SubjectDead].
func taskOfDead(subject string) (task int, ok bool) {
	_, right, _ := strings.Cut(strings.TrimPrefix(subject, prefixDead), ".")
	task, err := strconv.Atoi(right)
	return task, err == nil
}

// Broker is a connection with JetStream and the cluster's streams and buckets.
type Broker struct {
	NC      *nats.Conn
	JS      jetstream.JetStream
	cfg     Config
	results atomic.Pointer[jetstream.Stream]
	tries   atomic.Pointer[jetstream.Stream]
	dead    atomic.Pointer[jetstream.Stream]
	lost    lost
	group   grouper
	crowd   crowd
	pull    puller
}

// streams are the configurations of the streams that are no buckets.
func streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{Name: streamJobs, Description: "iDunno: submitted jobs; the sequence is the job's number",
			Subjects: []string{SubjectJobs}, Storage: jetstream.FileStorage, Duplicates: duplicates, Discard: jetstream.DiscardNew},
		{Name: streamResults, Description: "iDunno: one result a task, first write wins",
			Subjects: []string{prefixResults + "*.*"}, Storage: jetstream.FileStorage, Duplicates: duplicates,
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, AllowDirect: true, AllowAtomicPublish: true},
		{Name: streamTries, Description: "iDunno: tries of unfinished jobs' tasks that gave no result",
			Subjects: []string{prefixTries + "*.*"}, Storage: jetstream.FileStorage, Duplicates: duplicates,
			MaxMsgsPerSubject: wire.MaxTried, MaxAge: maxTriesAge, AllowDirect: true},
		{Name: streamDead, Description: "iDunno: dead letters, tasks that failed for good",
			Subjects: []string{prefixDead + "*.*"}, Storage: jetstream.FileStorage, Duplicates: duplicates,
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, AllowDirect: true},
		tasksConfig(),
	}
}

func tasksConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: streamTasks, Description: "iDunno: tasks waiting for workers",
		Subjects: []string{prefixTasks + "*.*"}, Storage: jetstream.MemoryStorage, Retention: jetstream.WorkQueuePolicy,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true}
}

func buckets() []jetstream.KeyValueConfig {
	return []jetstream.KeyValueConfig{
		{Bucket: bucketState, Description: "iDunno: job records", Storage: jetstream.FileStorage, History: 1},
		{Bucket: bucketFiles, Description: "iDunno: SDFS index", Storage: jetstream.FileStorage, History: 1},
		{Bucket: bucketLease, Description: "iDunno: coordinator lease", Storage: jetstream.FileStorage, History: 1, TTL: LeaseTTL},
	}
}

// streamNames are the streams of everything: those of the buckets are named after
// them by the client library.
func streamNames() []string {
	return []string{streamResults, streamTasks, streamJobs, streamTries, streamDead,
		streamState, streamLease, streamFiles, streamObjects}
}

// State opens the bucket of job records.
func (b *Broker) State(ctx context.Context) (jetstream.KeyValue, error) {
	return b.JS.KeyValue(ctx, bucketState)
}

// Lease opens the bucket of the coordinator's lease.
func (b *Broker) Lease(ctx context.Context) (jetstream.KeyValue, error) {
	return b.JS.KeyValue(ctx, bucketLease)
}

// Files opens what the SDFS stands on: its objects and its index.
func (b *Broker) Files(ctx context.Context) (Objects, jetstream.KeyValue, error) {
	index, err := b.JS.KeyValue(ctx, bucketFiles)
	if err != nil {
		return nil, nil, fmt.Errorf("open bucket %s: %w", bucketFiles, err)
	}
	objects, err := b.JS.ObjectStore(ctx, bucketObjects)
	if err != nil {
		return nil, nil, fmt.Errorf("open bucket %s: %w", bucketObjects, err)
	}
	stream, err := b.JS.Stream(ctx, streamObjects)
	if err != nil {
		return nil, nil, fmt.Errorf("open bucket %s: %w", bucketObjects, err)
	}
	return &objectBucket{objects, stream, b.JS}, &leaderReads{index, b, streamFiles, prefixFiles}, nil
}

// objectBucket is an [Objects] on an object store.
type objectBucket struct {
	jetstream.ObjectStore
	stream jetstream.Stream
	js     jetstream.JetStream
}

// Stream is the stream that the bucket stands on.
func (o *objectBucket) Stream() jetstream.Stream { return o.stream }

// Chunk reads a chunk with one request: unlike the client's own reading it needs
// no consumer, and ends with ctx.
func (o *objectBucket) Chunk(ctx context.Context, id string, from uint64) (*jetstream.RawStreamMsg, error) {
	return o.stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(prefixChunks+id))
}

// Jobs opens the stream of submissions.
func (b *Broker) Jobs(ctx context.Context) (jetstream.Stream, error) {
	return b.JS.Stream(ctx, streamJobs)
}

// Results opens the stream of results.
func (b *Broker) Results(ctx context.Context) (jetstream.Stream, error) {
	return b.stream(ctx, &b.results, streamResults)
}

// stream opens a stream, once.
func (b *Broker) stream(ctx context.Context, kept *atomic.Pointer[jetstream.Stream], name string) (jetstream.Stream, error) {
	if s := kept.Load(); s != nil {
		return *s, nil
	}
	s, err := b.JS.Stream(ctx, name)
	if err == nil {
		kept.Store(&s)
	}
	return s, err
}
