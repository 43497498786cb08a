// Against a real kernel: tests/system/client_ground.py says what is there. Run by `make test-clients`.
#include <cstdlib>
#include <functional>
#include <iostream>
#include <thread>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include "inferd/client.h"

using namespace std::chrono_literals;
using inferd::chat;
using inferd::Client;
using inferd::Error;
using inferd::Options;
namespace v1 = inferd::v1;

namespace {

constexpr auto kTtl = 6000ms;  // a keep-alive has a third of it, on a machine that is busy

#define EXPECT(what) \
  if (!(what)) throw std::runtime_error("line " + std::to_string(__LINE__) + ": " #what)

std::string told(const char* name) { return std::getenv((std::string("INFERD_TEST_") + name).c_str()); }

Options at(const std::string& address, const std::string& key = "", const std::string& ca = "") {
  Options options;
  options.address = address;
  options.credential_file = key;
  options.ca_file = ca;
  return options;
}

// Has the ground do something: "cut" connections through the proxy, "kill" the kernel.
void ask(const std::string& order) {
  const std::string control = told("CONTROL");
  const auto colon = control.find(':');
  addrinfo* found = nullptr;
  EXPECT(getaddrinfo(control.substr(0, colon).c_str(), control.substr(colon + 1).c_str(), nullptr, &found) == 0);
  const int asked = socket(found->ai_family, SOCK_STREAM, 0);
  EXPECT(connect(asked, found->ai_addr, found->ai_addrlen) == 0);
  freeaddrinfo(found);
  const std::string line = order + "\n";
  EXPECT(write(asked, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
  char done[16];
  EXPECT(read(asked, done, sizeof(done)) > 0);
  close(asked);
}

v1::TaskSpec lengthy() {
  auto spec = inferd::text("slow", "la");
  spec.mutable_sampling()->set_max_tokens(400);
  return spec;
}

std::string las(int count) {
  std::string all;
  for (int i = 0; i < count; i++) all += "la";
  return all;
}

Error refusal(const std::function<void()>& what) {
  try {
    what();
  } catch (const Error& error) {
    return error;
  }
  throw std::runtime_error("it was not refused");
}

v1::TaskState state_of(Client& client, const std::string& task_id) {
  v1::TaskState found = v1::TASK_STATE_UNSPECIFIED;
  for (const auto& event : client.watch(task_id)) found = event.finished().state();
  return found;
}

// The kernel of this user is found, and streams exactly what there is.
void found() {
  Client client;
  std::string all;
  for (const auto& event : client.run(chat("fake", "Grüße, 世界 🐢"))) all += event.output().text();
  EXPECT(all == "Grüße, 世界 🐢");
  EXPECT(client.generate(inferd::text("fake", "la")).text() == las(256));
}

// A key logs in over TCP, and nothing else does.
void key() {
  EXPECT(Client(at(told("TCP"), told("KEY"))).generate(chat("fake", "key")).text() == "key");
  Client bare(at(told("TCP")));
  EXPECT(refusal([&] { bare.generate(chat("fake", "no")); }).is(v1::ERROR_REASON_UNAUTHENTICATED));
  std::string said;
  try {
    Client afar(at("192.0.2.1:1", told("KEY")));
  } catch (const std::invalid_argument& error) {
    said = error.what();
  }
  EXPECT(said.find("use an address with TLS") != std::string::npos);
}

// TLS is spoken with who has a certificate of the right authority, and with nobody else.
void tls() {
  EXPECT(Client(at(told("TLS"), told("KEY"), told("CA"))).generate(chat("fake", "tls")).text() == "tls");
  Client doubting(at(told("TLS"), told("KEY")));
  const Error error = refusal([&] { doubting.generate(chat("fake", "no")); });
  if (error.reason() != inferd::kTlsFailed) throw error;
}

// Cancelling events cancels the task, and so does their end.
void cancel() {
  Client client;
  std::string task_id;
  for (const auto& event : client.run(lengthy())) {
    task_id = event.task_id();
    if (event.has_output()) break;
  }
  EXPECT(state_of(client, task_id) == v1::TASK_STATE_CANCELLED);
  auto events = client.run(lengthy());
  std::thread other;
  const Error error = refusal([&] {
    while (events.next()) {
      task_id = events.event().task_id();
      if (events.event().has_output() && !other.joinable()) other = std::thread([&] { events.cancel(); });
    }
  });
  other.join();
  EXPECT(error.code() == grpc::StatusCode::CANCELLED);
  EXPECT(state_of(client, task_id) == v1::TASK_STATE_CANCELLED);
}

// A deadline ends the task.
void deadline() {
  Client client;
  inferd::RunOptions options;
  options.timeout = 200ms;
  EXPECT(refusal([&] { client.generate(lengthy(), options); }).is(v1::ERROR_REASON_TASK_EXPIRED));
}

// A durable task is watched on behind its last event, whatever breaks.
void reattach(const std::string& trouble) {
  Client client, proxied(at(told("PROXY"), told("KEY")));
  inferd::RunOptions options;
  options.request_id = "cpp " + trouble;
  const auto task = proxied.create_task(lengthy(), options);
  EXPECT(proxied.create_task(lengthy(), options).task_id() == task.task_id());
  std::vector<std::uint64_t> seen;
  std::uint64_t first = 0;
  std::string all, rest;
  for (const auto& event : proxied.watch(task.task_id())) {
    EXPECT(seen.empty() || event.sequence() > seen.back());
    seen.push_back(event.sequence());
    all += event.output().text();
    if (first == 0 && !all.empty()) {
      first = event.sequence();
      ask(trouble);
    }
  }
  EXPECT(all == las(200));
  for (const auto& event : client.watch(task.task_id(), first)) rest += event.output().text();
  EXPECT(!rest.empty() && rest.size() < all.size() && all.substr(all.size() - rest.size()) == rest);
}

v1::Lease lease_at(Client& client, const std::string& lease_id, bool release) {
  const auto stub = v1::LeaseService::NewStub(client.channel());
  if (release) {
    grpc::ClientContext context;
    v1::ReleaseLeaseRequest request;
    v1::ReleaseLeaseResponse answer;
    request.set_lease_id(lease_id);
    client.prepare(context);
    client.check(stub->ReleaseLease(&context, request, &answer));
  }
  grpc::ClientContext context;
  v1::GetLeaseRequest request;
  v1::GetLeaseResponse answer;
  request.set_lease_id(lease_id);
  client.prepare(context);
  client.check(stub->GetLease(&context, request, &answer));
  return answer.lease();
}

// A lease holds beyond its TTL, for calls under it, and is given back.
void lease() {
  Client client;
  inferd::LeaseOptions options;
  options.ttl = kTtl;
  options.wait = true;
  auto held = client.lease({inferd::memory(1 << 20), inferd::model("fake", 1, 512)}, options);
  auto spec = chat("fake", "held");
  spec.mutable_sampling()->set_max_tokens(16);
  inferd::RunOptions under;
  under.lease = held.get();
  for (const auto end = std::chrono::steady_clock::now() + 2 * kTtl; std::chrono::steady_clock::now() < end;) {
    EXPECT(client.generate(spec, under).text() == "held");
    std::this_thread::sleep_for(100ms);
  }
  held->check();
  EXPECT(held->fencing_token() > 0);
  const std::string id = held->id();
  held.reset();
  EXPECT(lease_at(client, id, false).state() == v1::LEASE_STATE_RELEASED);
}

// A lease that somebody else has ended is lost at once.
void lost_lease() {
  Client client;
  std::mutex lock;
  std::condition_variable changed;
  std::string lost;
  inferd::LeaseOptions options;
  options.ttl = kTtl;
  options.on_lost = [&](const Error& error) {
    const std::lock_guard<std::mutex> guard(lock);
    lost = error.reason();
    changed.notify_all();
  };
  const auto held = client.lease({inferd::memory(1 << 20)}, options);
  lease_at(client, held->id(), true);
  std::unique_lock<std::mutex> guard(lock);
  EXPECT(changed.wait_for(guard, 5 * kTtl, [&] { return !lost.empty(); }));
  EXPECT(lost == inferd::kLeaseLost);
  inferd::RunOptions under;
  under.lease = held.get();
  EXPECT(refusal([&] { client.generate(chat("fake", "no"), under); }).reason() == inferd::kLeaseLost);
}

// Errors have the kernel's reason.
void errors() {
  Client client;
  const Error error = refusal([&] { client.generate(chat("fak", "hello")); });
  EXPECT(error.is(v1::ERROR_REASON_MODEL_NOT_FOUND) && error.code() == grpc::StatusCode::NOT_FOUND);
  EXPECT(error.metadata().at("suggestion") == "fake");
  EXPECT(std::string(error.what()).find("did you mean") != std::string::npos);
  v1::TaskSpec empty;
  empty.set_model("fake");
  const Error invalid = refusal([&] { client.generate(empty); });
  EXPECT(invalid.is(v1::ERROR_REASON_INVALID_FIELD) && invalid.field().rfind("spec", 0) == 0);
  Client nobody(at("unix:/nonexistent/inferd.sock"));
  const Error absent = refusal([&] { nobody.generate(chat("fake", "no")); });
  if (absent.reason() != inferd::kKernelUnreachable || !absent.unsent()) throw absent;
}

}  // namespace

int main() {
  const std::vector<std::pair<std::string, std::function<void()>>> tests = {
      {"found", found},
      {"key", key},
      {"tls", tls},
      {"cancel", cancel},
      {"deadline", deadline},
      {"reattach: cut", [] { reattach("cut"); }},
      {"reattach: kill", [] { reattach("kill"); }},
      {"lease", lease},
      {"lost lease", lost_lease},
      {"errors", errors},
  };
  int failed = 0;
  for (const auto& [name, test] : tests) {
    try {
      test();
      std::cout << "passed " << name << std::endl;
    } catch (const std::exception& error) {
      failed++;
      std::cout << "failed " << name << ": " << error.what() << std::endl;
    }
  }
  std::cout << tests.size() - failed << " passed, " << failed << " failed" << std::endl;
  return failed != 0;
}
