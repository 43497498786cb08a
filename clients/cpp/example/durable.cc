// Makes a task that outlives this program, its connection and the kernel, and prints its text as it comes:
//
//     durable smollm2 "Name the capital of France." [REQUEST_ID]
//
// Run it again with the same REQUEST_ID and it is the same task, told from its beginning.
#include <iostream>

#include "inferd/client.h"

int main(int count, char** words) {
  if (count < 3) {
    std::cerr << "give a model and what to say to it\n";
    return 2;
  }
  try {
    inferd::Client client;  // to $INFERD_ADDRESS, or to the kernel of this user or host
    auto spec = inferd::chat(words[1], words[2]);
    spec.mutable_sampling()->set_max_tokens(64);
    spec.mutable_sampling()->set_temperature(0);
    inferd::RunOptions options;
    options.request_id = count > 3 ? words[3] : "";
    const auto task = client.create_task(spec, options);
    std::cerr << "task " << task.task_id() << "\n";
    for (const auto& event : client.watch(task.task_id())) {
      std::cout << event.output().text() << std::flush;
      if (!event.has_finished()) continue;
      if (event.finished().has_error()) throw inferd::Error(event.finished().error());
      std::cerr << "\n" << event.finished().usage().output_tokens() << " tokens\n";
    }
  } catch (const inferd::Error& error) {
    std::cerr << error.reason() << ": " << error.what() << "\n";
    return 1;
  }
  return 0;
}
