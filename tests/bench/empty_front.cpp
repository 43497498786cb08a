// An empty service in C++: what a front in C++ in the place of Python's would give at most.
//
//     g++ -O2 -std=c++17 empty_front.cpp -o empty_front $(pkg-config --cflags --libs grpc++) && ./empty_front
//
// It gives back what it was sent, by any method: a call of one message, and each message of a stream. Like a kernel's
// front it takes bytes and gives bytes, and parses nothing. Writes its port to standard output, and serves until
// standard input ends.

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/server_callback.h>

#include <cstdio>
#include <memory>
#include <string>

namespace {

constexpr int kLargestBytes = 8 << 20;  // of a message, as the service in Python has it

// One call; it ends itself.
class Echo final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Echo(bool streams) : streams_(streams) { StartRead(&message_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
    } else if (streams_) {
      StartWrite(&message_);
    } else {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::CANCELLED);
      return;
    }
    message_.Clear();
    StartRead(&message_);
  }

  void OnDone() override { delete this; }

 private:
  const bool streams_;
  grpc::ByteBuffer message_;
};

class Service final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string& method = context->method();
    const std::string many = "/Many";
    const bool streams = method.size() >= many.size() &&
                         method.compare(method.size() - many.size(), many.size(), many) == 0;
    return new Echo(streams);
  }
};

}  // namespace

int main() {
  Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kLargestBytes);
  builder.SetMaxSendMessageSize(kLargestBytes);
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "the service cannot listen\n");
    return 1;
  }
  std::printf("%d\n", port);
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  server->Shutdown();
  return 0;
}
