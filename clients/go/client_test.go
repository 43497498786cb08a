package inferd_test

// Against a real kernel: tests/system/client_ground.py says what is there. Run by `make test-clients`.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"inferd"
	"inferd/inferdv1"
)

const ttl = 6 * time.Second // a keep-alive has a third of it, on a machine that is busy

var (
	ctx  = context.Background()
	none inferd.RunOptions
)

func connect(t *testing.T, options inferd.Options) *inferd.Client {
	t.Helper()
	client, err := inferd.Connect(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// ask has the ground do something: "cut" connections through the proxy, "kill" the kernel.
func ask(t *testing.T, order string) {
	t.Helper()
	asked, err := net.Dial("tcp", os.Getenv("INFERD_TEST_CONTROL"))
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	fmt.Fprintln(asked, order)
	if _, err = bufio.NewReader(asked).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func long() *inferdv1.TaskSpec {
	spec := inferd.Text("slow", "la")
	spec.Sampling = &inferdv1.SamplingParams{MaxTokens: proto.Uint32(400)}
	return spec
}

func wants(t *testing.T, client *inferd.Client, spec *inferdv1.TaskSpec, text string) {
	t.Helper()
	made, err := client.Generate(ctx, spec, none)
	if err != nil || made.Text() != text {
		t.Fatalf("%v, %v; want %q", made, err, text)
	}
}

func refused(t *testing.T, client *inferd.Client, ctx context.Context, reason string) *inferd.Error {
	t.Helper()
	made, err := client.Generate(ctx, inferd.Chat("fake", "no"), none)
	var failed *inferd.Error
	if !errors.As(err, &failed) || failed.Reason != reason {
		t.Fatalf("%v, %v; want %s", made, err, reason)
	}
	return failed
}

// The kernel of this user is found, and streams exactly what there is.
func TestFound(t *testing.T) {
	client := connect(t, inferd.Options{})
	events, all := client.Run(ctx, inferd.Chat("fake", "Grüße, 世界 🐢"), none), ""
	for events.Next() {
		all += events.Text()
	}
	if events.Err() != nil || all != "Grüße, 世界 🐢" {
		t.Fatal(all, events.Err())
	}
	wants(t, client, inferd.Text("fake", "la"), strings.Repeat("la", 256))
}

// A key logs in over TCP, and nothing else does.
func TestKey(t *testing.T) {
	address, key := os.Getenv("INFERD_TEST_TCP"), os.Getenv("INFERD_TEST_KEY")
	wants(t, connect(t, inferd.Options{Address: address, CredentialFile: key}), inferd.Chat("fake", "key"), "key")
	refused(t, connect(t, inferd.Options{Address: address}), ctx, "UNAUTHENTICATED")
	_, err := inferd.Connect(inferd.Options{Address: "192.0.2.1:1", Credential: "ik"})
	if err == nil || !strings.Contains(err.Error(), "use an address with TLS") {
		t.Fatal(err)
	}
}

// TLS is spoken with who has a certificate of the right authority, and with nobody else.
func TestTLS(t *testing.T) {
	secure := inferd.Options{Address: os.Getenv("INFERD_TEST_TLS"), CredentialFile: os.Getenv("INFERD_TEST_KEY")}
	refused(t, connect(t, secure), ctx, inferd.TLSFailed)
	secure.CAFile = os.Getenv("INFERD_TEST_CA")
	wants(t, connect(t, secure), inferd.Chat("fake", "tls"), "tls")
}

// Cancelling the context cancels the task, and so does closing its events.
func TestCancel(t *testing.T) {
	client := connect(t, inferd.Options{})
	for _, way := range []string{"context", "close"} {
		running, cancel := context.WithCancel(ctx)
		events, taskID := client.Run(running, long(), none), ""
		for events.Next() {
			taskID = events.Event().TaskId
			if events.Text() == "" {
				continue
			}
			if way == "close" {
				events.Close()
			} else {
				cancel()
			}
		}
		cancel()
		if way == "context" && !errors.Is(events.Err(), context.Canceled) {
			t.Fatal(events.Err())
		}
		if state := finished(t, client, taskID).State; state != inferdv1.TaskState_TASK_STATE_CANCELLED {
			t.Fatal(way, state)
		}
	}
}

// finished is how a task has ended, once it has.
func finished(t *testing.T, client *inferd.Client, taskID string) *inferdv1.Finished {
	t.Helper()
	var found *inferdv1.Finished
	events := client.Watch(ctx, taskID, 0, none)
	for events.Next() {
		found = events.Event().GetFinished()
	}
	if events.Err() != nil {
		t.Fatal(events.Err())
	}
	return found
}

// A deadline ends the task.
func TestDeadline(t *testing.T) {
	client := connect(t, inferd.Options{})
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := client.Generate(short, long(), none)
	if !errors.Is(err, context.DeadlineExceeded) && !inferd.Is(err, inferdv1.ErrorReason_ERROR_REASON_TASK_EXPIRED) {
		t.Fatal(err)
	}
}

// A durable task is watched on behind its last event, whatever breaks.
func TestReattach(t *testing.T) {
	client := connect(t, inferd.Options{})
	proxied := connect(t, inferd.Options{Address: os.Getenv("INFERD_TEST_PROXY"), CredentialFile: os.Getenv("INFERD_TEST_KEY")})
	for _, trouble := range []string{"cut", "kill"} {
		task, err := proxied.CreateTask(ctx, long(), inferd.RunOptions{RequestID: "go " + trouble})
		if err != nil {
			t.Fatal(err)
		}
		if same, err := proxied.CreateTask(ctx, long(), inferd.RunOptions{RequestID: "go " + trouble}); err != nil || same.TaskId != task.TaskId {
			t.Fatal(same, err)
		}
		events, all, seen, first := proxied.Watch(ctx, task.TaskId, 0, none), "", []uint64{}, uint64(0)
		for events.Next() {
			if sequence := events.Event().Sequence; len(seen) > 0 && sequence <= seen[len(seen)-1] {
				t.Fatal(seen, sequence)
			}
			all, seen = all+events.Text(), append(seen, events.Event().Sequence)
			if first == 0 && all != "" {
				first = events.Event().Sequence
				ask(t, trouble)
			}
		}
		if events.Err() != nil || all != strings.Repeat("la", 200) {
			t.Fatal(trouble, all, events.Err())
		}
		again, rest := client.Watch(ctx, task.TaskId, first, none), ""
		for again.Next() {
			rest += again.Text()
		}
		if rest == "" || !strings.HasSuffix(all, rest) || rest == all {
			t.Fatal(rest)
		}
	}
}

// A lease holds beyond its TTL, for calls under it, and is given back.
func TestLease(t *testing.T) {
	client := connect(t, inferd.Options{})
	lease, err := client.Lease(ctx, inferd.LeaseOptions{TTL: ttl, Wait: true}, inferd.Memory("", 1<<20), inferd.Model("fake", 1, 512))
	if err != nil {
		t.Fatal(err)
	}
	spec := inferd.Chat("fake", "held")
	spec.Sampling = &inferdv1.SamplingParams{MaxTokens: proto.Uint32(16)}
	for lived := time.Now(); time.Since(lived) < 2*ttl; time.Sleep(100 * time.Millisecond) {
		if made, err := client.Generate(lease.Context(), spec, none); err != nil || made.Text() != "held" {
			t.Fatal(made, err)
		}
	}
	if lease.Err() != nil || lease.FencingToken() == 0 {
		t.Fatal(lease.Err())
	}
	lease.Release()
	answer, err := inferdv1.NewLeaseServiceClient(client.Conn()).GetLease(ctx, &inferdv1.GetLeaseRequest{LeaseId: lease.ID})
	if err != nil || answer.Lease.State != inferdv1.LeaseState_LEASE_STATE_RELEASED {
		t.Fatal(answer, err)
	}
}

// A lease that somebody else has ended is lost at once.
func TestLostLease(t *testing.T) {
	client := connect(t, inferd.Options{})
	lease, err := client.Lease(ctx, inferd.LeaseOptions{TTL: ttl}, inferd.Memory("", 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	stub := inferdv1.NewLeaseServiceClient(client.Conn())
	if _, err = stub.ReleaseLease(ctx, &inferdv1.ReleaseLeaseRequest{LeaseId: lease.ID}); err != nil {
		t.Fatal(err)
	}
	<-lease.Context().Done()
	if inferd.ReasonOf(lease.Err()) != inferd.LeaseLost {
		t.Fatal(lease.Err())
	}
	refused(t, client, inferd.WithLease(ctx, lease), inferd.LeaseLost)
}

// Errors have the kernel's reason.
func TestErrors(t *testing.T) {
	client := connect(t, inferd.Options{})
	_, err := client.Generate(ctx, inferd.Chat("fak", "hello"), none)
	var failed *inferd.Error
	if !errors.As(err, &failed) || !inferd.Is(err, inferdv1.ErrorReason_ERROR_REASON_MODEL_NOT_FOUND) {
		t.Fatal(err)
	}
	if failed.Code != codes.NotFound || failed.Metadata["suggestion"] != "fake" || !strings.Contains(failed.Message, "did you mean") {
		t.Fatal(failed.Code, failed.Metadata, failed)
	}
	_, err = client.Generate(ctx, &inferdv1.TaskSpec{Model: "fake"}, none)
	if !errors.As(err, &failed) || failed.Reason != "INVALID_FIELD" || !strings.HasPrefix(failed.Field, "spec") {
		t.Fatal(err)
	}
	refused(t, connect(t, inferd.Options{Address: "unix:/nonexistent/inferd.sock"}), ctx, inferd.KernelUnreachable)
}
