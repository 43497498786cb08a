// How a kernel is reached.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "inferd/tickets.h"

namespace inferd {

// As they are, these find the kernel of this user or host.
struct Options {
  // `unix:/path`, `host:port`, `tls:host:port` or `mtls:host:port`; default $INFERD_ADDRESS, else what is found.
  std::string address;
  // Whose tasks are meant; default the kernel's default tenant.
  std::string tenant;
  // A key or a token; default that of `credential_file`, else of $INFERD_CREDENTIAL.
  std::string credential;
  // Where it is, alone, in a file that only its owner may read; default $INFERD_CREDENTIAL_FILE.
  std::string credential_file;
  // Authorities that the kernel's certificate is checked by; default $INFERD_CA_FILE, else those of gRPC.
  std::string ca_file;
  // Certificate by which the kernel knows who calls; default $INFERD_CERT_FILE.
  std::string cert_file;
  // Its private key, mode 0600; default $INFERD_KEY_FILE.
  std::string key_file;
  // Deadline of calls that answer at once.
  std::chrono::milliseconds timeout = std::chrono::seconds(30);
};

// A way to a kernel.
struct Way {
  std::string address;
  std::string credential;
  std::unique_ptr<Tickets> tickets;  // of a socket; else none
  std::shared_ptr<grpc::Channel> channel;
};

// Finds the kernel that is meant, and reads what is needed to call it. Throws std::invalid_argument.
Way find_way(const Options& options);

}  // namespace inferd
