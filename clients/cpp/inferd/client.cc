#include "inferd/client.h"

#include <random>

namespace inferd {
namespace {

constexpr std::uint32_t kDefaultMaxTokens = 512;
constexpr std::chrono::seconds kReleaseTime{5};  // a lease that is not released ends by itself

template <class Response>
class StreamOf : public EventStream {
 public:
  explicit StreamOf(std::unique_ptr<grpc::ClientReader<Response>> reader) : reader_(std::move(reader)) {}

  bool read(std::deque<v1::TaskEvent>& into) override {
    Response response;
    if (!reader_->Read(&response)) return false;
    into.push_back(std::move(*response.mutable_event()));
    for (auto& event : *response.mutable_more_events()) into.push_back(std::move(event));
    return true;
  }
  grpc::Status finish() override { return reader_->Finish(); }

 private:
  std::unique_ptr<grpc::ClientReader<Response>> reader_;
};

// The same task, with no more output than the clients of inferd ask for unless they are told.
v1::TaskSpec bounded(v1::TaskSpec spec) {
  if (spec.has_embedding() || spec.has_infer() || spec.has_call() || spec.sampling().has_max_tokens()) return spec;
  spec.mutable_sampling()->set_max_tokens(kDefaultMaxTokens);
  spec.mutable_sampling()->set_fit_max_tokens(true);
  return spec;
}

void set(google::protobuf::Duration* into, std::chrono::milliseconds length) {
  into->set_seconds(length.count() / 1000);
  into->set_nanos(static_cast<std::int32_t>(length.count() % 1000 * 1000000));
}

std::string new_id() {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::random_device drawn;
  std::string made;
  for (int i = 0; i < 32; i++) made += kDigits[drawn() % 16];
  return made;
}

}  // namespace

v1::TaskSpec text(const std::string& model, const std::string& prompt) {
  v1::TaskSpec spec;
  spec.set_model(model);
  spec.set_prompt(prompt);
  return spec;
}

v1::TaskSpec chat(const std::string& model, const std::string& said) {
  v1::TaskSpec spec;
  spec.set_model(model);
  auto* message = spec.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(said);
  return spec;
}

v1::TaskSpec call(const std::string& function, const std::string& json) {
  v1::TaskSpec spec;
  spec.set_model("functions@" + function);
  spec.mutable_call()->set_input(json);
  return spec;
}

v1::Claim memory(std::uint64_t bytes, const std::string& device_id) {
  v1::Claim claim;
  claim.mutable_memory()->set_bytes(bytes);
  claim.mutable_memory()->set_device_id(device_id);
  return claim;
}

v1::Claim model(const std::string& name, std::uint32_t sequences, std::uint32_t kv_tokens) {
  v1::Claim claim;
  claim.mutable_model()->set_model(name);
  claim.mutable_model()->set_sequences(sequences);
  claim.mutable_model()->set_kv_tokens(kv_tokens);
  return claim;
}

v1::Claim cores(std::uint32_t count, const std::string& device_id) {
  v1::Claim claim;
  claim.mutable_cores()->set_cores(count);
  claim.mutable_cores()->set_device_id(device_id);
  return claim;
}

Client::Client(const Options& options)
    : way_(find_way(options)),
      tenant_(options.tenant),
      timeout_(options.timeout),
      tasks_(v1::TaskService::NewStub(way_.channel)),
      leases_(v1::LeaseService::NewStub(way_.channel)) {}

Client::~Client() = default;

void Client::prepare(grpc::ClientContext& context, std::chrono::milliseconds timeout, Lease* lease) {
  const std::string secret = way_.tickets ? way_.tickets->current() : way_.credential;
  if (!secret.empty()) context.AddMetadata("authorization", "Bearer " + secret);
  if (!tenant_.empty()) context.AddMetadata("inferd-tenant", tenant_);
  if (lease != nullptr) {
    lease->check();
    context.AddMetadata("inferd-lease", lease->id());
  }
  const auto limit = timeout.count() == 0 ? timeout_ : timeout;
  if (limit != std::chrono::milliseconds::max()) context.set_deadline(std::chrono::system_clock::now() + limit);
}

void Client::check(const grpc::Status& status) const {
  if (!status.ok()) throw Error::from(status, way_.address);
}

Events Client::run(const v1::TaskSpec& spec, const RunOptions& options) {
  v1::RunTaskRequest request;
  *request.mutable_spec() = bounded(spec);
  request.set_request_id(options.request_id);
  request.set_detach_on_disconnect(options.detach_on_disconnect);
  request.set_several_events(true);
  if (options.output_interval.count() > 0) set(request.mutable_output_interval(), options.output_interval);
  const auto limit = options.timeout.count() > 0 ? options.timeout : std::chrono::milliseconds::max();
  const auto open = [this, request, limit, lease = options.lease](grpc::ClientContext& context, std::uint64_t) {
    prepare(context, limit, lease);
    return std::make_unique<StreamOf<v1::RunTaskResponse>>(tasks_->RunTask(&context, request));
  };
  return Events(*this, open, false, 0);
}

Events Client::watch(const std::string& task_id, std::uint64_t after, const RunOptions& options) {
  v1::WatchTaskRequest request;
  request.set_task_id(task_id);
  request.set_several_events(true);
  if (options.output_interval.count() > 0) set(request.mutable_output_interval(), options.output_interval);
  const auto open = [this, request](grpc::ClientContext& context, std::uint64_t behind) mutable {
    prepare(context, std::chrono::milliseconds::max());
    request.set_after_sequence(behind);
    return std::make_unique<StreamOf<v1::WatchTaskResponse>>(tasks_->WatchTask(&context, request));
  };
  return Events(*this, open, true, after);
}

Generation Client::generate(const v1::TaskSpec& spec, RunOptions options) {
  if (options.output_interval.count() == 0) options.output_interval = std::chrono::seconds(10);
  Generation made;
  made.texts.emplace_back();
  for (const auto& event : run(spec, options)) {
    made.task_id = event.task_id();
    if (event.has_finished()) made.finished = event.finished();
    if (event.output().has_call()) made.pieces.push_back(event.output().call().json());
    if (made.texts.size() <= event.output().sample()) made.texts.resize(event.output().sample() + 1);
    made.texts[event.output().sample()] += event.output().text();
  }
  return made;
}

v1::Task Client::create_task(const v1::TaskSpec& spec, const RunOptions& options) {
  v1::CreateTaskRequest request;
  *request.mutable_spec() = bounded(spec);
  request.set_request_id(options.request_id.empty() ? new_id() : options.request_id);
  if (options.timeout.count() > 0) set(request.mutable_ttl(), options.timeout);
  Patience patience;
  for (;;) {
    try {
      grpc::ClientContext context;
      v1::CreateTaskResponse answer;
      prepare(context, {}, options.lease);
      check(tasks_->CreateTask(&context, request, &answer));
      return answer.task();
    } catch (const Error& error) {
      if (!error.unsent()) patience.heard();
      patience.again(error);
    }
  }
}

v1::Task Client::get_task(const std::string& task_id) {
  grpc::ClientContext context;
  v1::GetTaskRequest request;
  v1::GetTaskResponse answer;
  request.set_task_id(task_id);
  prepare(context);
  check(tasks_->GetTask(&context, request, &answer));
  return answer.task();
}

v1::Task Client::cancel_task(const std::string& task_id) {
  grpc::ClientContext context;
  v1::CancelTaskRequest request;
  v1::CancelTaskResponse answer;
  request.set_task_id(task_id);
  prepare(context);
  check(tasks_->CancelTask(&context, request, &answer));
  return answer.task();
}

std::unique_ptr<Lease> Client::lease(const std::vector<v1::Claim>& claims, const LeaseOptions& options) {
  v1::CreateLeaseRequest request;
  v1::CreateLeaseResponse answer;
  request.set_request_id(new_id());
  auto& spec = *request.mutable_spec();
  for (const auto& claim : claims) *spec.add_claims() = claim;
  spec.set_wait(options.wait);
  spec.mutable_labels()->insert(options.labels.begin(), options.labels.end());
  if (options.ttl.count() > 0) set(spec.mutable_ttl(), options.ttl);
  if (options.wait_timeout.count() > 0) set(spec.mutable_wait_timeout(), options.wait_timeout);
  const auto sent = std::chrono::steady_clock::now();
  grpc::ClientContext context;
  prepare(context);
  check(leases_->CreateLease(&context, request, &answer));
  std::unique_ptr<Lease> held(new Lease(*this, answer.lease(), sent, options.on_lost));
  held->grant(decided(answer.lease()));
  return held;
}

// Waits until a lease is granted or refused.
v1::Lease Client::decided(v1::Lease lease) {
  Patience patience(true);
  v1::WatchLeaseRequest request;
  request.set_lease_id(lease.lease_id());
  while (lease.state() == v1::LEASE_STATE_PENDING) {
    grpc::ClientContext context;
    prepare(context, std::chrono::milliseconds::max());
    const auto stream = leases_->WatchLease(&context, request);
    v1::WatchLeaseResponse changed;
    while (lease.state() == v1::LEASE_STATE_PENDING && stream->Read(&changed)) {
      patience.heard();
      lease = changed.lease();
    }
    context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (lease.state() == v1::LEASE_STATE_PENDING) patience.again(Error::from(status, way_.address));
  }
  return lease;
}

v1::LeaseRenewal Client::renew(const std::string& lease_id, std::chrono::milliseconds timeout) {
  grpc::ClientContext context;
  v1::KeepAliveLeasesRequest request;
  v1::KeepAliveLeasesResponse answer;
  request.add_lease_ids(lease_id);
  prepare(context, timeout);
  const auto stream = leases_->KeepAliveLeases(&context);
  stream->Write(request);
  stream->WritesDone();
  const bool answered = stream->Read(&answer) && answer.renewals_size() > 0;
  context.TryCancel();
  const grpc::Status status = stream->Finish();
  if (!answered) throw Error::from(status, way_.address);
  return answer.renewals(0);
}

void Client::release(const std::string& lease_id) {
  grpc::ClientContext context;
  v1::ReleaseLeaseRequest request;
  v1::ReleaseLeaseResponse answer;
  request.set_lease_id(lease_id);
  prepare(context, kReleaseTime);
  check(leases_->ReleaseLease(&context, request, &answer));
}

}  // namespace inferd
