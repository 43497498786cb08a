#include "inferd/events.h"

#include "inferd/client.h"

namespace inferd {

struct Events::State {
  State(Client& the_client, Open how, bool whether, std::uint64_t behind)
      : client(the_client), open(std::move(how)), goes_on(whether), after(behind) {}

  Client& client;
  Open open;
  bool goes_on;  // a call that breaks is taken up again
  std::uint64_t after;
  Patience patience;
  std::deque<v1::TaskEvent> waiting;
  v1::TaskEvent current;
  bool over = false;
  std::unique_ptr<EventStream> stream;  // ends before its context

  std::mutex lock;  // of both below
  std::shared_ptr<grpc::ClientContext> context;
  bool cancelled = false;

  void dial() {
    auto made = std::make_shared<grpc::ClientContext>();
    const std::lock_guard<std::mutex> guard(lock);
    if (cancelled) throw Error("it was cancelled", "", grpc::StatusCode::CANCELLED);
    stream = open(*made, after);
    context = std::move(made);
  }

  // How the call ended. The stream goes first: it points into the context.
  grpc::Status end() {
    const grpc::Status status = stream->finish();
    stream.reset();
    return status;
  }

  void fail(const grpc::Status& status) {
    over = current.has_finished();
    if (over && status.ok()) return;
    const Error error = status.ok() ? Error(client.address() + " ended the call", kKernelUnreachable,
                                            grpc::StatusCode::UNAVAILABLE)
                                    : Error::from(status, client.address());
    if (over || !goes_on) {
      over = true;
      const bool late = error.reason().empty() && error.code() == grpc::StatusCode::DEADLINE_EXCEEDED;
      if (late) throw Error("the task's deadline passed", "TASK_EXPIRED", error.code());
      throw error;
    }
    try {
      patience.again(error);
    } catch (const Error&) {
      over = true;
      throw;
    }
  }
};

Events::Events(Client& client, Open open, bool goes_on, std::uint64_t after)
    : state_(std::make_unique<State>(client, std::move(open), goes_on, after)) {}

Events::Events(Events&&) noexcept = default;

Events::~Events() {
  if (!state_ || !state_->stream) return;
  cancel();
  std::deque<v1::TaskEvent> rest;
  while (state_->stream->read(rest)) rest.clear();
  state_->end();
}

bool Events::next() {
  State& state = *state_;
  while (!state.over) {
    if (!state.waiting.empty()) {
      state.current.Swap(&state.waiting.front());
      state.waiting.pop_front();
      state.after = state.current.sequence();
      return true;
    }
    if (!state.stream) state.dial();
    if (state.stream->read(state.waiting)) {
      state.patience.heard();
    } else {
      state.fail(state.end());
    }
  }
  return false;
}

const v1::TaskEvent& Events::event() const { return state_->current; }

void Events::cancel() {
  const std::lock_guard<std::mutex> guard(state_->lock);
  state_->cancelled = true;
  if (state_->context) state_->context->TryCancel();
}

}  // namespace inferd
