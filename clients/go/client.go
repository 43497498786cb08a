// Package inferd is the client of inferd: tasks as streams that go on, leases that are kept alive, errors with a type.
//
//	client, err := inferd.Connect(inferd.Options{})
//	events := client.Run(ctx, inferd.Chat("smollm2", "Name the capital of France."), inferd.RunOptions{})
//	for events.Next() {
//		fmt.Print(events.Text())
//	}
//	err = events.Err()
//
// Messages of the wire are in inferd/inferdv1, made by protoc.
package inferd

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"inferd/inferdv1"

	"time"
)

// Client is a connection to a kernel. Safe to use from several goroutines. Close it at the end.
type Client struct {
	// Address of the kernel.
	Address string

	conn       *grpc.ClientConn
	credential string
	tenant     string
	tickets    *tickets
	timeout    time.Duration
}

// Close ends calls under way, and tasks that hang on them.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is what generated stubs of any service are made with, as inferdv1.NewModelServiceClient. Their calls carry who
// calls, and fail with *Error.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

func (c *Client) tasks() inferdv1.TaskServiceClient   { return inferdv1.NewTaskServiceClient(c.conn) }
func (c *Client) leases() inferdv1.LeaseServiceClient { return inferdv1.NewLeaseServiceClient(c.conn) }

type leaseKey struct{}

// WithLease is a context whose calls run under a lease.
func WithLease(ctx context.Context, lease *Lease) context.Context {
	return context.WithValue(ctx, leaseKey{}, lease)
}

// carrying is a context with what each call carries: who calls, for whom, and under which lease.
func (c *Client) carrying(ctx context.Context) (context.Context, error) {
	secret := c.credential
	if c.tickets != nil {
		ticket, err := c.tickets.current()
		if err != nil {
			return nil, err
		}
		secret = ticket
	}
	if secret != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+secret)
	}
	if c.tenant != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "inferd-tenant", c.tenant)
	}
	if lease, ok := ctx.Value(leaseKey{}).(*Lease); ok {
		if err := lease.Err(); err != nil {
			return nil, err
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "inferd-lease", lease.ID)
	}
	return ctx, nil
}

func (c *Client) unary(
	ctx context.Context, method string, request, reply interface{}, conn *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	carrying, err := c.carrying(ctx)
	if err != nil {
		return err
	}
	if _, limited := ctx.Deadline(); !limited && c.timeout > 0 {
		limited, cancel := context.WithTimeout(carrying, c.timeout)
		defer cancel()
		carrying = limited
	}
	return fromCall(ctx, invoke(carrying, method, request, reply, conn, options...), c.Address)
}

func (c *Client) streaming(
	ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer,
	options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	carrying, err := c.carrying(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := open(carrying, desc, conn, method, options...)
	if err != nil {
		return nil, fromCall(ctx, err, c.Address)
	}
	return &typedStream{ClientStream: stream, ctx: ctx, address: c.Address}, nil
}

// typedStream fails with *Error.
type typedStream struct {
	grpc.ClientStream
	ctx     context.Context
	address string
}

func (s *typedStream) RecvMsg(message interface{}) error {
	return fromCall(s.ctx, s.ClientStream.RecvMsg(message), s.address)
}
