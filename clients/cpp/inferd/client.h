// The client of inferd: tasks as streams that go on, leases that are kept alive, errors with a type.
//
//     inferd::Client client;
//     for (const auto& event : client.run(inferd::chat("smollm2", "Name the capital of France."))) {
//       std::cout << event.output().text();
//     }
//
// Messages of the wire are in namespace inferd::v1, made by protoc.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "inferd/connecting.h"
#include "inferd/error.h"
#include "inferd/events.h"
#include "inferd/lease.h"
#include "inferd_api/v1/lease_service.grpc.pb.h"
#include "inferd_api/v1/task_service.grpc.pb.h"

namespace inferd {

// A text that the model goes on with.
v1::TaskSpec text(const std::string& model, const std::string& prompt);
// What a user says, which the model answers. Add messages to `spec.mutable_chat()` for a longer conversation.
v1::TaskSpec chat(const std::string& model, const std::string& said);

// A call of a function, with a JSON object of its parameters; `Generation::pieces` has what it gives.
v1::TaskSpec call(const std::string& function, const std::string& json);

// Memory of a device, "" for "cpu:0", in bytes.
v1::Claim memory(std::uint64_t bytes, const std::string& device_id = "");
// A model that stays loaded, with places for so many tasks and room for so many tokens of theirs.
v1::Claim model(const std::string& name, std::uint32_t sequences = 0, std::uint32_t kv_tokens = 0);
// Cores of a device, "" for "cpu:0".
v1::Claim cores(std::uint32_t count, const std::string& device_id = "");

// Options of a task.
struct RunOptions {
  // Makes the call idempotent; to 128 characters.
  std::string request_id;
  // Keep the task running when the stream closes; come back with `watch`. Of `run` alone.
  bool detach_on_disconnect = false;
  // Least time between two events with output. Of `run` and `watch`.
  std::chrono::milliseconds output_interval{0};
  // Deadline of a task; of one that is created when it expires. Default: none, and a day.
  std::chrono::milliseconds timeout{0};
  // The lease that it runs under.
  Lease* lease = nullptr;
};

// What a task gave, once it has ended.
struct Generation {
  std::string task_id;
  // Its outputs: one, unless `n` asked for more.
  std::vector<std::string> texts;
  // What a function gave, as JSON; several of one that streams.
  std::vector<std::string> pieces;
  // How it ended, and what it cost.
  v1::Finished finished;
  const std::string& text() const { return texts.front(); }
};

// A connection to a kernel. Safe to use from several threads. Its events and leases must end before it.
class Client {
 public:
  // Finds the kernel that is meant, which the first call calls. Throws std::invalid_argument.
  explicit Client(const Options& options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Of the kernel.
  const std::string& address() const { return way_.address; }

  // Runs a task. Ending its events, or their `cancel`, cancels it, and so does a connection that breaks, unless
  // `detach_on_disconnect`. Where it does not succeed, they throw `Error` behind its `Finished`.
  Events run(const v1::TaskSpec& spec, const RunOptions& options = {});
  // Runs a task and waits for all that it gives.
  Generation generate(const v1::TaskSpec& spec, RunOptions options = {});
  // Makes a task that outlives this program, its connection and the kernel: it is kept when this returns; see `watch`.
  // Where the answer is lost it is asked for again with the same `request_id`.
  v1::Task create_task(const v1::TaskSpec& spec, const RunOptions& options = {});
  // The events of a task behind a sequence number, up to `Finished`, each once, over the end of connections and kernels.
  // The task is left alone; that it failed is told by `Finished` only.
  Events watch(const std::string& task_id, std::uint64_t after = 0, const RunOptions& options = {});
  v1::Task get_task(const std::string& task_id);
  // Ends a task now; one that has ended is returned as it is.
  v1::Task cancel_task(const std::string& task_id);

  // Claims capacity, all or nothing, waits for the grant, and keeps it alive as long as the lease lives.
  std::unique_ptr<Lease> lease(const std::vector<v1::Claim>& claims, const LeaseOptions& options = {});

  // What generated stubs of any service are made with: `prepare` what their calls carry, and `check` how they ended.
  const std::shared_ptr<grpc::Channel>& channel() const { return way_.channel; }
  // Who calls, for whom, under which lease, and the deadline: 0 for that of the client.
  void prepare(grpc::ClientContext& context, std::chrono::milliseconds timeout = {}, Lease* lease = nullptr);
  // Throws `Error` unless the call succeeded.
  void check(const grpc::Status& status) const;

 private:
  friend class Lease;
  v1::Lease decided(v1::Lease lease);
  v1::LeaseRenewal renew(const std::string& lease_id, std::chrono::milliseconds timeout);
  void release(const std::string& lease_id);

  Way way_;
  std::string tenant_;
  std::chrono::milliseconds timeout_;
  std::unique_ptr<v1::TaskService::Stub> tasks_;
  std::unique_ptr<v1::LeaseService::Stub> leases_;
};

}  // namespace inferd
