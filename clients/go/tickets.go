package inferd

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"inferd/inferdv1"
)

var ticketForm = regexp.MustCompile(`^(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\.[0-9]{1,6})?)\n$`)

const (
	ticketBytes = 4096
	askTicket   = 5 * time.Second // how long the socket that gives tickets is waited for
)

// tickets are what a client on a shared socket says who it is by: taken from the socket beside it, and renewed in time.
// Safe to use from several goroutines.
type tickets struct {
	path    string
	lock    sync.Mutex
	ticket  string
	from    string
	renewAt time.Time
}

// current is the ticket; "" where the socket is its owner's alone and needs none, or where no kernel is there.
func (t *tickets) current() (string, error) {
	t.lock.Lock()
	defer t.lock.Unlock()
	stamp := t.stamp()
	if stamp == "" || (stamp == t.from && time.Now().Before(t.renewAt)) {
		return t.ticket, nil
	}
	said, err := t.ask()
	if err != nil {
		return "", err
	}
	if told := ticketForm.FindStringSubmatch(said); told != nil {
		holds, _ := strconv.ParseFloat(told[2], 64)
		t.ticket, t.from = told[1], stamp
		t.renewAt = time.Now().Add(time.Duration(holds * 2 / 3 * float64(time.Second)))
	} else if strings.HasPrefix(said, "error: ") {
		reason := strings.TrimPrefix(inferdv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED.String(), reasonPrefix)
		return "", &Error{Reason: reason, Code: codes.Unauthenticated, Message: "no ticket: " + strings.TrimSpace(said[7:])}
	}
	return t.ticket, nil
}

func (t *tickets) ask() (string, error) {
	asked, err := net.DialTimeout("unix", t.path, askTicket)
	if err != nil {
		return "", nil // nobody is there: the call that needs it says so
	}
	defer asked.Close()
	asked.SetDeadline(time.Now().Add(askTicket))
	said, err := io.ReadAll(io.LimitReader(asked, ticketBytes))
	if os.IsTimeout(err) {
		message := fmt.Sprintf("no ticket: %s gave none in %v; try again, or use a key (CredentialFile)", t.path, askTicket)
		return "", &Error{Reason: KernelUnreachable, Code: codes.Unavailable, Message: message, RetryAfter: time.Second}
	}
	return string(said), nil
}

// stamp tells one kernel's socket from the next one's; "" where there is none.
func (t *tickets) stamp() string {
	var found syscall.Stat_t
	if syscall.Stat(t.path, &found) != nil {
		return ""
	}
	return fmt.Sprint(found.Ino, found.Ctim)
}
