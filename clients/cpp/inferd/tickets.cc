#include "inferd/tickets.h"

#include <cerrno>
#include <cstring>
#include <regex>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "inferd/error.h"

namespace inferd {
namespace {

constexpr std::size_t kMostBytes = 4096;
constexpr int kAskSeconds = 5;  // how long the socket that gives tickets is waited for
constexpr double kRenewedAfter = 2.0 / 3;  // of the time that a ticket holds

}  // namespace

std::string Tickets::current() {
  static const std::regex form("(it_[0-9a-f]{64})\n([0-9]{1,6}(?:\\.[0-9]{1,6})?)\n");
  const std::lock_guard<std::mutex> guard(lock_);
  const std::string now_there = stamp();
  if (now_there.empty() || (now_there == from_ && std::chrono::steady_clock::now() < renew_at_)) return ticket_;
  const std::string said = ask();
  std::smatch told;
  if (std::regex_match(said, told, form)) {
    ticket_ = told[1];
    from_ = now_there;
    renew_at_ = std::chrono::steady_clock::now() +
                std::chrono::milliseconds(static_cast<long>(std::stod(told[2]) * 1000 * kRenewedAfter));
  } else if (said.rfind("error: ", 0) == 0) {
    throw Error("no ticket: " + said.substr(7), "UNAUTHENTICATED", grpc::StatusCode::UNAUTHENTICATED);
  }
  return ticket_;
}

std::string Tickets::ask() const {
  sockaddr_un address{};
  if (path_.size() >= sizeof(address.sun_path)) return "";
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
  const int asked = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (asked < 0) return "";
  const timeval most{kAskSeconds, 0};
  setsockopt(asked, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof(most));
  setsockopt(asked, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
  std::string said;
  bool late = false;
  if (connect(asked, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    char part[kMostBytes];
    ssize_t size;
    while (said.size() < kMostBytes && (size = recv(asked, part, sizeof(part), 0)) > 0) said.append(part, size);
    late = said.empty() && size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
  }  // else nobody is there: the call that needs it says so
  close(asked);
  if (late) {
    throw Error("no ticket: " + path_ + " gave none in " + std::to_string(kAskSeconds) +
                    " s; try again, or use a key (credential_file)",
                kKernelUnreachable, grpc::StatusCode::UNAVAILABLE);
  }
  return said;
}

// What tells one kernel's socket from the next one's; "" where there is none.
std::string Tickets::stamp() const {
  struct stat found;
  if (::stat(path_.c_str(), &found) != 0) return "";
  return std::to_string(found.st_ino) + " " + std::to_string(found.st_ctim.tv_sec) + "." +
         std::to_string(found.st_ctim.tv_nsec);
}

}  // namespace inferd
