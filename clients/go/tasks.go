package inferd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"inferd/inferdv1"
)

const (
	defaultMaxTokens = 512
	pause            = 100 * time.Millisecond // between two tries
	patienceTime     = 30 * time.Second       // how long a kernel is waited for that was found away
)

// Text is a task that goes on with a text.
func Text(model, prompt string) *inferdv1.TaskSpec {
	return &inferdv1.TaskSpec{Model: model, Input: &inferdv1.TaskSpec_Prompt{Prompt: prompt}}
}

// Chat is a task that answers what a user says.
func Chat(model, said string) *inferdv1.TaskSpec {
	return ChatOf(model, &inferdv1.ChatMessage{Role: "user", Content: said})
}

// ChatOf is a task that answers a conversation.
func ChatOf(model string, messages ...*inferdv1.ChatMessage) *inferdv1.TaskSpec {
	return &inferdv1.TaskSpec{Model: model, Input: &inferdv1.TaskSpec_Chat{Chat: &inferdv1.ChatPrompt{Messages: messages}}}
}

// Call is a call of a function, with values of its parameters by name; Generate gives its Pieces. It panics where they
// cannot be JSON.
func Call(name string, input map[string]interface{}) *inferdv1.TaskSpec {
	written, err := json.Marshal(input)
	if err != nil {
		panic(err)
	}
	call := &inferdv1.CallInput{Input: string(written)}
	return &inferdv1.TaskSpec{Model: "functions@" + name, Input: &inferdv1.TaskSpec_Call{Call: call}}
}

// RunOptions of a task. The deadline of the context is that of the task; of one that is created it is TTL.
type RunOptions struct {
	// RequestID makes the call idempotent; to 128 characters.
	RequestID string
	// DetachOnDisconnect keeps the task running when the stream closes; come back with Watch. Of Run alone.
	DetachOnDisconnect bool
	// OutputInterval is the least time between two events with output. Of Run and Watch.
	OutputInterval time.Duration
	// TTL says when a created task expires; default after a day.
	TTL time.Duration
}

// Events of a task, one after the other. Not safe to use from several goroutines.
type Events struct {
	open     func(ctx context.Context, after uint64) (eventStream, error)
	ctx      context.Context
	cancel   context.CancelFunc
	stream   eventStream
	waiting  []*inferdv1.TaskEvent
	current  *inferdv1.TaskEvent
	patience *patience // nil: it is not taken up again
	address  string
	after    uint64
	err      error
	done     bool
}

// eventStream is a call whose responses carry events.
type eventStream interface {
	next() ([]*inferdv1.TaskEvent, error)
}

type runStream struct {
	inferdv1.TaskService_RunTaskClient
}

func (s runStream) next() ([]*inferdv1.TaskEvent, error) {
	response, err := s.Recv()
	return append([]*inferdv1.TaskEvent{response.GetEvent()}, response.GetMoreEvents()...), err
}

type watchStream struct {
	inferdv1.TaskService_WatchTaskClient
}

func (s watchStream) next() ([]*inferdv1.TaskEvent, error) {
	response, err := s.Recv()
	return append([]*inferdv1.TaskEvent{response.GetEvent()}, response.GetMoreEvents()...), err
}

// Next waits for the next event; false behind the last one, and where the call failed.
func (e *Events) Next() bool {
	for !e.done {
		if len(e.waiting) > 0 {
			e.current, e.waiting = e.waiting[0], e.waiting[1:]
			e.after = e.current.Sequence
			return true
		}
		if err := e.receive(); err != nil {
			e.fail(err)
		}
	}
	e.current = nil
	return false
}

func (e *Events) receive() (err error) {
	if e.stream == nil {
		if e.stream, err = e.open(e.ctx, e.after); err != nil {
			return err
		}
	}
	events, err := e.stream.next()
	if err == nil {
		e.waiting = events
		if e.patience != nil {
			e.patience.heard()
		}
	}
	return err
}

// fail ends the events, or takes them up again.
func (e *Events) fail(err error) {
	ended := e.current.GetFinished() != nil
	if err == io.EOF && !ended {
		err = &Error{Reason: KernelUnreachable, Code: codes.Unavailable, Message: e.address + " ended the call"}
	}
	if err != io.EOF && e.patience != nil && !ended {
		if err = e.patience.again(e.ctx, err); err == nil {
			e.stream = nil
			return
		}
	}
	if err != io.EOF {
		e.err = err
	}
	e.Close()
}

// Event is the one that Next has found; `Finished` is the last one.
func (e *Events) Event() *inferdv1.TaskEvent { return e.current }

// Text is what the event adds to the output; "" for events of other kinds.
func (e *Events) Text() string { return e.current.GetOutput().GetText() }

// Err is why there are no more events; nil behind the last one of a task that succeeded, or that was watched.
func (e *Events) Err() error { return e.err }

// Close ends following. A task that was run, and has not ended, is cancelled by that.
func (e *Events) Close() {
	e.done = true
	e.cancel()
}

// Run runs a task. Closing its events, or its context, cancels it, and so does a connection that breaks, unless
// DetachOnDisconnect. Where it does not succeed, Err of its events says so, behind its `Finished`.
func (c *Client) Run(ctx context.Context, spec *inferdv1.TaskSpec, options RunOptions) *Events {
	request := &inferdv1.RunTaskRequest{
		Spec: bounded(spec), RequestId: options.RequestID, DetachOnDisconnect: options.DetachOnDisconnect,
		OutputInterval: span(options.OutputInterval), SeveralEvents: true,
	}
	return c.events(ctx, nil, func(ctx context.Context, _ uint64) (eventStream, error) {
		stream, err := c.tasks().RunTask(ctx, request)
		return runStream{stream}, err
	})
}

func (c *Client) events(ctx context.Context, p *patience, open func(context.Context, uint64) (eventStream, error)) *Events {
	ctx, cancel := context.WithCancel(ctx)
	return &Events{open: open, ctx: ctx, cancel: cancel, patience: p, address: c.Address}
}

// Generation is what a task gave, once it has ended.
type Generation struct {
	TaskID string
	// Texts are its outputs: one, unless N asked for more.
	Texts []string
	// Pieces are what a function gave, as JSON; several of one that streams.
	Pieces []json.RawMessage
	// Finished says how it ended, and what it cost.
	Finished *inferdv1.Finished
}

// Text is the first output.
func (g *Generation) Text() string { return g.Texts[0] }

// Generate runs a task and waits for all that it gives. As Run.
func (c *Client) Generate(ctx context.Context, spec *inferdv1.TaskSpec, options RunOptions) (*Generation, error) {
	if options.OutputInterval == 0 {
		options.OutputInterval = 10 * time.Second
	}
	events := c.Run(ctx, spec, options)
	defer events.Close()
	made := &Generation{Texts: []string{""}}
	for events.Next() {
		made.TaskID, made.Finished = events.Event().TaskId, events.Event().GetFinished()
		sample := int(events.Event().GetOutput().GetSample())
		for len(made.Texts) <= sample {
			made.Texts = append(made.Texts, "")
		}
		made.Texts[sample] += events.Text()
		if call := events.Event().GetOutput().GetCall(); call != nil {
			made.Pieces = append(made.Pieces, json.RawMessage(call.Json))
		}
	}
	if events.Err() != nil {
		return nil, events.Err()
	}
	return made, nil
}

// CreateTask makes a task that outlives this program, its connection and the kernel: it is kept when this returns; see
// Watch. Where the answer is lost it is asked for again with the same RequestID.
func (c *Client) CreateTask(ctx context.Context, spec *inferdv1.TaskSpec, options RunOptions) (*inferdv1.Task, error) {
	request := &inferdv1.CreateTaskRequest{Spec: bounded(spec), RequestId: options.RequestID}
	if request.RequestId == "" {
		request.RequestId = newID()
	}
	if options.TTL > 0 {
		request.Expiration = &inferdv1.CreateTaskRequest_Ttl{Ttl: durationpb.New(options.TTL)}
	}
	var patience patience
	for {
		answer, err := c.tasks().CreateTask(ctx, request)
		if err == nil {
			return answer.Task, nil
		}
		var failed *Error
		if errors.As(err, &failed) && !failed.unsent {
			patience.waits = true
		}
		if err = patience.again(ctx, err); err != nil {
			return nil, fmt.Errorf("request %s: %w", request.RequestId, err)
		}
	}
}

// Watch gives the events of a task behind a sequence number, up to `Finished`, each once, over the end of connections and
// kernels. The task is left alone; that it failed is told by `Finished` only.
func (c *Client) Watch(ctx context.Context, taskID string, after uint64, options RunOptions) *Events {
	events := c.events(ctx, &patience{}, func(ctx context.Context, after uint64) (eventStream, error) {
		stream, err := c.tasks().WatchTask(ctx, &inferdv1.WatchTaskRequest{
			TaskId: taskID, AfterSequence: after, OutputInterval: span(options.OutputInterval), SeveralEvents: true,
		})
		return watchStream{stream}, err
	})
	events.after = after
	return events
}

// GetTask reads a task.
func (c *Client) GetTask(ctx context.Context, taskID string) (*inferdv1.Task, error) {
	answer, err := c.tasks().GetTask(ctx, &inferdv1.GetTaskRequest{TaskId: taskID})
	return answer.GetTask(), err
}

// CancelTask ends a task now; one that has ended is returned as it is.
func (c *Client) CancelTask(ctx context.Context, taskID string) (*inferdv1.Task, error) {
	answer, err := c.tasks().CancelTask(ctx, &inferdv1.CancelTaskRequest{TaskId: taskID})
	return answer.GetTask(), err
}

// FailureOf is the error that a task ended with, by its `Finished`; nil where it succeeded.
func FailureOf(finished *inferdv1.Finished) error {
	if finished.GetError() == nil {
		return nil
	}
	return FromStatus(status.FromProto(finished.Error))
}

// patience says how long a kernel that is away is waited for: it is asked after each failure.
type patience struct {
	waits  bool
	lostAt time.Time
}

// heard: the kernel has said something.
func (p *patience) heard() { p.waits, p.lostAt = true, time.Time{} }

// again pauses before another try; it gives the error back where another one is no use, or they have gone on for long.
func (p *patience) again(ctx context.Context, err error) error {
	if p.lostAt.IsZero() {
		p.lostAt = time.Now()
	}
	reason := ReasonOf(err)
	passes := reason == KernelUnreachable || Is(err, inferdv1.ErrorReason_ERROR_REASON_NOT_LEADER) ||
		Is(err, inferdv1.ErrorReason_ERROR_REASON_SHUTTING_DOWN)
	if !p.waits || !passes || time.Since(p.lostAt) > patienceTime {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// bounded is the same task, with no more output than the clients of inferd ask for unless they are told.
func bounded(spec *inferdv1.TaskSpec) *inferdv1.TaskSpec {
	if spec.GetEmbedding() != nil || spec.GetInfer() != nil || spec.GetCall() != nil ||
		(spec.GetSampling() != nil && spec.Sampling.MaxTokens != nil) {
		return spec
	}
	made := proto.Clone(spec).(*inferdv1.TaskSpec)
	if made.Sampling == nil {
		made.Sampling = &inferdv1.SamplingParams{}
	}
	made.Sampling.MaxTokens, made.Sampling.FitMaxTokens = proto.Uint32(defaultMaxTokens), true
	return made
}

func span(length time.Duration) *durationpb.Duration {
	if length == 0 {
		return nil
	}
	return durationpb.New(length)
}

func newID() string {
	var drawn [16]byte
	if _, err := rand.Read(drawn[:]); err != nil {
		panic(err) // the system has no random numbers
	}
	return hex.EncodeToString(drawn[:])
}
