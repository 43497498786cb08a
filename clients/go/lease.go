package inferd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"inferd/inferdv1"
)

const (
	renewals    = 3 // keep-alives in a TTL: two may be lost
	leasePause  = 200 * time.Millisecond
	releaseTime = 5 * time.Second // a lease that is not released ends by itself
	troubleSize = 200
)

// LeaseOptions are as in inferdv1.LeaseSpec.
type LeaseOptions struct {
	// TTL is how long it holds unless it is kept alive; default the kernel's.
	TTL time.Duration
	// Wait when there is no room now; default: refuse with LEASE_UNAVAILABLE.
	Wait bool
	// WaitTimeout is the longest wait.
	WaitTimeout time.Duration
	Labels      map[string]string
}

// Memory of a device, "" for "cpu:0", in bytes.
func Memory(deviceID string, bytes uint64) *inferdv1.Claim {
	return &inferdv1.Claim{Kind: &inferdv1.Claim_Memory{Memory: &inferdv1.MemoryClaim{DeviceId: deviceID, Bytes: bytes}}}
}

// Model is one that stays loaded, with places for so many tasks and room for so many tokens of theirs.
func Model(name string, sequences, kvTokens uint32) *inferdv1.Claim {
	claim := &inferdv1.ModelClaim{Model: name, Sequences: sequences, KvTokens: kvTokens}
	return &inferdv1.Claim{Kind: &inferdv1.Claim_Model{Model: claim}}
}

// Cores of a device, "" for "cpu:0".
func Cores(deviceID string, cores uint32) *inferdv1.Claim {
	return &inferdv1.Claim{Kind: &inferdv1.Claim_Cores{Cores: &inferdv1.CoresClaim{DeviceId: deviceID, Cores: cores}}}
}

// Lease is one that this program keeps alive, by a goroutine. The kernel counts its time from when it takes a keep-alive,
// and this client from when it was sent, which is earlier, on its own clock: it never believes in one that the kernel has
// given to another. Safe to use from several goroutines.
type Lease struct {
	// ID travels with each call under it; see WithLease.
	ID string
	// TTL is how long it holds from each keep-alive.
	TTL time.Duration

	client    *Client
	ctx       context.Context
	cancel    context.CancelFunc
	lock      sync.Mutex // of all below
	token     uint64
	confirmed time.Time
	trouble   string
	err       error
	released  bool
}

// Lease claims capacity, all or nothing, waits for the grant, and keeps it alive until Release.
func (c *Client) Lease(ctx context.Context, options LeaseOptions, claims ...*inferdv1.Claim) (*Lease, error) {
	sent := time.Now()
	answer, err := c.leases().CreateLease(ctx, &inferdv1.CreateLeaseRequest{RequestId: newID(), Spec: &inferdv1.LeaseSpec{
		Claims: claims, Ttl: span(options.TTL), Wait: options.Wait, WaitTimeout: span(options.WaitTimeout), Labels: options.Labels,
	}})
	if err != nil {
		return nil, err
	}
	asked := answer.Lease
	lease := &Lease{ID: asked.LeaseId, TTL: asked.Spec.Ttl.AsDuration(), client: c, token: asked.FencingToken, confirmed: sent}
	lease.ctx, lease.cancel = context.WithCancel(context.Background())
	go lease.keep()
	if asked, err = c.decided(ctx, asked); err == nil {
		err = granted(asked)
	}
	if err != nil {
		lease.Release()
		return nil, err
	}
	lease.lock.Lock()
	lease.token = asked.FencingToken
	lease.lock.Unlock()
	return lease, nil
}

// Context ends when the lease is lost or released: give it to what needs the lease. Its calls run under it.
func (l *Lease) Context() context.Context { return WithLease(l.ctx, l) }

// FencingToken rises with every grant of the kernel.
func (l *Lease) FencingToken() uint64 {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.token
}

// Err is LEASE_LOST where it does not hold any more, or nobody can tell; nil while it certainly holds.
func (l *Lease) Err() error {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.err == nil && !l.released && l.remaining() <= 0 {
		l.lose(fmt.Sprintf("the kernel has not confirmed it for its TTL of %v", l.TTL), nil)
	}
	return l.err
}

// Release gives it back. One that the kernel cannot be told of ends by itself.
func (l *Lease) Release() {
	l.lock.Lock()
	over := l.released || l.err != nil
	if !over {
		l.released = true
		l.err = l.lost("it was released", nil)
	}
	l.lock.Unlock()
	l.cancel()
	if !over {
		ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
		defer cancel()
		_, _ = l.client.leases().ReleaseLease(ctx, &inferdv1.ReleaseLeaseRequest{LeaseId: l.ID})
	}
}

func (l *Lease) remaining() time.Duration { return time.Until(l.confirmed.Add(l.TTL)) }

func (l *Lease) lost(why string, facts map[string]string) *Error {
	if l.trouble != "" {
		why += " (" + l.trouble + ")"
	}
	metadata := map[string]string{"lease_id": l.ID}
	for name, value := range facts {
		metadata[name] = value
	}
	return &Error{
		Reason: LeaseLost, Code: codes.FailedPrecondition, Message: fmt.Sprintf("lease %s is lost: %s", l.ID, why), Metadata: metadata,
	}
}

func (l *Lease) lose(why string, facts map[string]string) {
	l.err = l.lost(why, facts)
	l.cancel()
}

// keep keeps it alive until it is lost or released.
func (l *Lease) keep() {
	every := l.TTL / renewals
	for l.Err() == nil {
		l.lock.Lock()
		wait, end := time.Until(l.confirmed.Add(every)), l.remaining()
		if l.trouble != "" && wait < leasePause {
			wait = leasePause
		}
		l.lock.Unlock()
		if wait > end {
			wait = end
		}
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(wait):
			if wait < end {
				l.renew(every)
			}
		}
	}
}

func (l *Lease) renew(timeout time.Duration) {
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	sent := time.Now()
	renewal, err := l.ask(ctx)
	l.lock.Lock()
	defer l.lock.Unlock()
	if err != nil {
		if l.trouble = err.Error(); len(l.trouble) > troubleSize {
			l.trouble = l.trouble[:troubleSize]
		}
		return
	}
	l.trouble = ""
	if renewal.Error != nil {
		ended := FromStatus(status.FromProto(renewal.Error))
		l.lose(ended.Message, ended.Metadata)
	} else if l.remaining() > 0 {
		l.confirmed, l.token = sent, renewal.FencingToken
	}
}

func (l *Lease) ask(ctx context.Context) (*inferdv1.LeaseRenewal, error) {
	stream, err := l.client.leases().KeepAliveLeases(ctx)
	if err != nil {
		return nil, err
	}
	if err = stream.Send(&inferdv1.KeepAliveLeasesRequest{LeaseIds: []string{l.ID}}); err == nil {
		err = stream.CloseSend()
	}
	answer, failed := stream.Recv()
	if failed != nil {
		return nil, failed
	}
	if err == nil && len(answer.Renewals) == 0 {
		err = &Error{Message: "the kernel said nothing of it"}
	}
	if err != nil {
		return nil, err
	}
	return answer.Renewals[0], nil
}

// decided waits until a lease is granted or refused.
func (c *Client) decided(ctx context.Context, lease *inferdv1.Lease) (*inferdv1.Lease, error) {
	waits := patience{waits: true}
	for lease.State == inferdv1.LeaseState_LEASE_STATE_PENDING {
		watching, cancel := context.WithCancel(ctx)
		stream, err := c.leases().WatchLease(watching, &inferdv1.WatchLeaseRequest{LeaseId: lease.LeaseId})
		for err == nil && lease.State == inferdv1.LeaseState_LEASE_STATE_PENDING {
			var changed *inferdv1.WatchLeaseResponse
			if changed, err = stream.Recv(); err == nil {
				waits.heard()
				lease = changed.Lease
			}
		}
		cancel()
		if err != nil {
			if err = waits.again(ctx, err); err != nil {
				return nil, err
			}
		}
	}
	return lease, nil
}

func granted(lease *inferdv1.Lease) error {
	if lease.State == inferdv1.LeaseState_LEASE_STATE_ACTIVE {
		return nil
	}
	if lease.Error != nil {
		return FromStatus(status.FromProto(lease.Error))
	}
	message := fmt.Sprintf("lease %s is %v before it was granted", lease.LeaseId, lease.State)
	return &Error{Reason: LeaseLost, Code: codes.FailedPrecondition, Message: message, Metadata: map[string]string{"lease_id": lease.LeaseId}}
}
