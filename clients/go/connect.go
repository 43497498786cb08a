package inferd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

var (
	addressForm    = regexp.MustCompile(`^(tls:|mtls:)?((\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):([0-9]{1,5}))$`)
	credentialForm = regexp.MustCompile(`^[\x21-\x7e]+$`) // what a header can carry of it
)

const (
	mostCredential = 8192
	longestPath    = 107 // of a socket in a file, in bytes; see unix(7)
	maxPort        = 65535
	callTimeout    = 30 * time.Second
	mostBytes      = 64 << 20
)

// Options say how a kernel is reached. The zero value finds the kernel of this user or host.
type Options struct {
	// Address is unix:/path, host:port, tls:host:port or mtls:host:port; default $INFERD_ADDRESS, else what is found.
	Address string
	// Tenant is whose tasks are meant; default the kernel's default tenant.
	Tenant string
	// Credential is a key or a token; default that of CredentialFile, else of $INFERD_CREDENTIAL.
	Credential string
	// CredentialFile has it, alone, and may be read by its owner only; default $INFERD_CREDENTIAL_FILE.
	CredentialFile string
	// CAFile has authorities that the kernel's certificate is checked by; default $INFERD_CA_FILE, else the system's.
	CAFile string
	// CertFile is a certificate by which the kernel knows who calls; default $INFERD_CERT_FILE.
	CertFile string
	// KeyFile is its private key, mode 0600; default $INFERD_KEY_FILE.
	KeyFile string
	// Timeout is the deadline of calls that answer at once; default 30 s, negative for none.
	Timeout time.Duration
}

// Connect finds the kernel that is meant. It is called for the first time by the first call.
func Connect(options Options) (*Client, error) {
	address := firstOf(options.Address, os.Getenv("INFERD_ADDRESS"))
	if address == "" {
		address = findAddress()
	}
	credential, err := credentialOf(options)
	if err != nil {
		return nil, err
	}
	client := &Client{Address: address, credential: credential, tenant: options.Tenant, timeout: options.Timeout}
	if client.timeout == 0 {
		client.timeout = callTimeout
	}
	target, dialing, err := client.way(options)
	if err != nil {
		return nil, err
	}
	client.conn, err = grpc.Dial(target, append(dialing,
		grpc.WithUnaryInterceptor(client.unary),
		grpc.WithStreamInterceptor(client.streaming),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostBytes), grpc.MaxCallSendMsgSize(mostBytes)),
		// A server that states no rule of its own takes one ping in five minutes.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 310 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithNoProxy(),
	)...)
	return client, err
}

// way is what gRPC takes for the client's address.
func (c *Client) way(options Options) (string, []grpc.DialOption, error) {
	if strings.HasPrefix(c.Address, "unix:") {
		path := strings.TrimPrefix(c.Address, "unix:")
		if strings.HasPrefix(path, "///") {
			path = path[2:]
		}
		if path == "" || len(path) > longestPath {
			return "", nil, fmt.Errorf("address %s has a path of %d bytes; it must have 1 to %d", c.Address, len(path), longestPath)
		}
		if c.credential == "" {
			c.tickets = &tickets{path: path + ".id"}
		}
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		return "passthrough:///localhost", []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithInsecure()}, nil
	}
	found := addressForm.FindStringSubmatch(c.Address)
	if found == nil {
		return "", nil, fmt.Errorf("address %s is not of the form unix:/path, host:port or tls:host:port", c.Address)
	}
	scheme, bare, host := found[1], found[2], found[3]
	if port, _ := strconv.Atoi(found[4]); port > maxPort {
		return "", nil, fmt.Errorf("address %s has port %d; a port is at most %d", c.Address, port, maxPort)
	}
	if scheme != "" {
		secure, err := secured(options, c.Address, scheme)
		return "dns:///" + bare, []grpc.DialOption{grpc.WithTransportCredentials(secure)}, err
	}
	if options.CAFile+options.CertFile+options.KeyFile != "" {
		return "", nil, fmt.Errorf("a certificate is given, and %s is an address without TLS; write tls:%s", c.Address, c.Address)
	}
	if c.credential != "" && !isHere(host) {
		return "", nil, fmt.Errorf("a credential would go to %s for everybody on the way to read; use an address with TLS, "+
			"tls:%s", c.Address, c.Address)
	}
	return "dns:///" + bare, []grpc.DialOption{grpc.WithInsecure()}, nil
}

func isHere(host string) bool {
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func secured(options Options, address, scheme string) (credentials.TransportCredentials, error) {
	caFile := firstOf(options.CAFile, os.Getenv("INFERD_CA_FILE"))
	certFile := firstOf(options.CertFile, os.Getenv("INFERD_CERT_FILE"))
	keyFile := firstOf(options.KeyFile, os.Getenv("INFERD_KEY_FILE"))
	config := &tls.Config{MinVersion: tls.VersionTLS13} // kernels speak no older one
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the file of CAFile cannot be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the file %s of CAFile holds no certificates in PEM", caFile)
		}
	}
	if scheme == "mtls:" || certFile != "" || keyFile != "" {
		if certFile == "" || keyFile == "" {
			return nil, fmt.Errorf("%s takes a certificate of the client and its key: name CertFile and KeyFile", address)
		}
		if err := checkOwn(keyFile, "KeyFile"); err != nil {
			return nil, err
		}
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("the files of CertFile and KeyFile: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

func credentialOf(options Options) (string, error) {
	said, file := options.Credential, options.CredentialFile
	if said == "" && file == "" {
		said = os.Getenv("INFERD_CREDENTIAL")
		if said == "" {
			file = os.Getenv("INFERD_CREDENTIAL_FILE")
		}
	}
	if said == "" && file != "" {
		if err := checkOwn(file, "CredentialFile"); err != nil {
			return "", err
		}
		held, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("the file of CredentialFile cannot be read: %w", err)
		}
		if said = strings.TrimSpace(string(held)); said == "" {
			return "", fmt.Errorf("the file %s of CredentialFile holds no credential", file)
		}
	}
	if said != "" && (len(said) > mostCredential || !credentialForm.MatchString(said)) {
		return "", errors.New("the credential is none: it must be 1 to 8192 visible letters of ASCII")
	}
	return said, nil
}

// checkOwn refuses a file with a secret that others could read.
func checkOwn(path, name string) error {
	found, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("the file of %s cannot be read: %w", name, err)
	}
	owner, mode := found.Sys().(*syscall.Stat_t).Uid, found.Mode().Perm()
	if !found.Mode().IsRegular() || mode&0o077 != 0 || (owner != 0 && int(owner) != os.Geteuid()) {
		return fmt.Errorf("the file %s of %s has mode %04o and owner %d, so that others could use it: chmod 600 %s",
			path, name, mode, owner, path)
	}
	return nil
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
