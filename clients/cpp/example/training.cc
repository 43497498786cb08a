// Watches a training to its end; Ctrl-C leaves it alone:
//
//     training TRAINING_ID
#include <iostream>

#include "inferd/client.h"
#include "inferd_api/v1/training_service.grpc.pb.h"

int main(int count, char** words) try {
  if (count < 2) throw std::invalid_argument("give the id of a training; inferd trainings tells them");
  inferd::Client client;  // to $INFERD_ADDRESS, or to the kernel of this user or host
  const auto trainings = inferd::v1::TrainingService::NewStub(client.channel());
  inferd::v1::WatchTrainingRequest request;
  request.set_training_id(words[1]);
  grpc::ClientContext context;
  client.prepare(context, std::chrono::milliseconds::max());
  const auto watched = trainings->WatchTraining(&context, request);
  for (inferd::v1::WatchTrainingResponse told; watched->Read(&told);) {
    const auto& training = told.training();
    std::cout << inferd::v1::TrainingState_Name(training.state()) << " step " << training.step() << " of "
              << training.steps() << ", loss " << training.loss() << "\n";
    if (training.has_error()) throw inferd::Error(training.error());
    if (training.has_result()) {
      std::cout << training.result().model() << " version " << training.result().version() << "\n";
    }
  }
  client.check(watched->Finish());
} catch (const inferd::Error& error) {
  std::cerr << error.reason() << ": " << error.what() << "\n";
  return 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
