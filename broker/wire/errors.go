package wire

// Codes of an [Error], stable for programs.
const (
	CodeBadDocument  = "bad_document"
	CodeUnknownModel = "unknown_model"
	CodeUnknownData  = "unknown_data"
	CodeBadRange     = "bad_range"
	CodeBadData      = "bad_data" // the data set's images don't fit the model
	CodeNoSuchJob    = "no_such_job"
	CodeJobEnded     = "job_ended"
	CodeJobRuns      = "job_runs"
	CodeNoFailures   = "no_failures"
	CodeNoSuchLetter = "no_such_letter"
	CodeBadRequest   = "bad_request"
	CodeUnavailable  = "unavailable"
	// CodeBusy says that too many jobs wait, CodeStorageFull that there is no room.
	CodeBusy        = "busy"
	CodeStorageFull = "storage_full"
)

// Error is a refusal that crosses processes: a code for programs, a sentence
// for people, and the field of the document it speaks of.
type Error struct {
	Code    string `json:"code"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// StorageFull refuses a submission for want of room; detail, which may be "", says
// how much there is.
func StorageFull(detail string) *Error {
	if detail != "" {
		detail = " (" + detail + ")"
	}
	return &Error{Code: CodeStorageFull,
		Message: "the store is full" + detail + ": remove files with `idunno sdfs rm`, or give the servers more room with --max-store, and submit again"}
}
