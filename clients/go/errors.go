package inferd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"inferd/inferdv1"
)

// Reasons that the kernel cannot say itself. All others are names of inferdv1.ErrorReason.
const (
	KernelUnreachable = "KERNEL_UNREACHABLE"
	TLSFailed         = "TLS_FAILED"
	LeaseLost         = "LEASE_LOST"
)

const reasonPrefix = "ERROR_REASON_"

// Error says why a call or a task failed. Branch on Reason, or with Is; the message is for people.
type Error struct {
	// Reason is a name of inferdv1.ErrorReason without its prefix, one of the constants of this package, or "" for a
	// status of the transport.
	Reason string
	// Code is the canonical one of gRPC.
	Code codes.Code
	// Message is for people.
	Message string
	// Metadata has facts by name; inferdv1.ErrorReason lists them.
	Metadata map[string]string
	// Field is the path of the request's field that is wrong, else "".
	Field string
	// RetryAfter says when trying again makes sense; 0 where that is not known.
	RetryAfter time.Duration

	unsent bool // no kernel can have seen the call
	cause  error
}

// Error is the message.
func (e *Error) Error() string { return e.Message }

// Unwrap is what the transport said.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus is the status that the error was made of, for package status.
func (e *Error) GRPCStatus() *status.Status {
	if said, ok := status.FromError(e.cause); ok && e.cause != nil {
		return said
	}
	return status.New(e.Code, e.Message)
}

// Is says whether an error has this reason.
func Is(err error, reason inferdv1.ErrorReason) bool {
	return ReasonOf(err) == strings.TrimPrefix(reason.String(), reasonPrefix)
}

// ReasonOf is the reason of an error, "" for those without one.
func ReasonOf(err error) string {
	var failed *Error
	if errors.As(err, &failed) {
		return failed.Reason
	}
	return ""
}

// FromStatus is the error of a status that is part of a message, as Finished.Error; nil for none.
func FromStatus(said *status.Status) *Error {
	if said == nil || said.Code() == codes.OK {
		return nil
	}
	failed := &Error{Code: said.Code(), Message: said.Message(), cause: said.Err()}
	for _, detail := range said.Details() {
		switch found := detail.(type) {
		case *errdetails.ErrorInfo:
			if found.Domain == "inferd" {
				failed.Reason, failed.Metadata = found.Reason, found.Metadata
			}
		case *errdetails.RetryInfo:
			failed.RetryAfter = time.Duration(found.RetryDelay.GetSeconds())*time.Second +
				time.Duration(found.RetryDelay.GetNanos())
		case *errdetails.BadRequest:
			if len(found.FieldViolations) > 0 {
				failed.Field = found.FieldViolations[0].Field
			}
		}
	}
	return failed
}

// fromCall is the error of a call; one that the caller's context ended is that context's.
func fromCall(ctx context.Context, err error, address string) error {
	var known *Error
	if err == nil || err == io.EOF || errors.As(err, &known) {
		return err
	}
	said, _ := status.FromError(err)
	failed := FromStatus(said)
	if failed.Reason != "" {
		return failed
	}
	if ctx.Err() != nil && (failed.Code == codes.Canceled || failed.Code == codes.DeadlineExceeded) {
		return ctx.Err()
	}
	words := said.Message()
	switch {
	case failed.Code == codes.Unavailable && strings.Contains(words, "authentication handshake failed"):
		failed.Reason, failed.unsent = TLSFailed, true
		failed.Message = fmt.Sprintf("no connection with TLS to %s: %s; name the authority of its certificate "+
			"(CAFile, $INFERD_CA_FILE)", address, words)
	case failed.Code == codes.Unavailable:
		failed.Reason = KernelUnreachable
		failed.unsent = strings.Contains(words, "while dialing") || strings.Contains(words, "TransientFailure")
		failed.Message = fmt.Sprintf("no kernel answers at %s (%s); start one with: inferd serve", address, words)
	default:
		failed.Message = fmt.Sprintf("the call to %s ended with %s: %s", address, failed.Code, words)
	}
	return failed
}
