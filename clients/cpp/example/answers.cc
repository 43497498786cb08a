// Answers a question from files, with citations, by the function `clean` and an index that is kept and asked:
//
//     answers INDEX smollm2 "What outlives the kernel?" notes.md more.md
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iostream>

#include "inferd/client.h"
#include "inferd_api/v1/index_service.grpc.pb.h"

// The text that a function makes of that of a file.
std::string cleaned(inferd::Client& client, const std::string& path) {
  std::ifstream file(path);
  google::protobuf::Struct input;
  google::protobuf::Value made;
  std::string json;
  (*input.mutable_fields())["text"].set_string_value({std::istreambuf_iterator<char>(file), {}});
  if (!google::protobuf::util::MessageToJsonString(input, &json).ok()) throw std::runtime_error(path + " is no UTF-8");
  const auto piece = client.generate(inferd::call("clean", json)).pieces.at(0);
  if (!google::protobuf::util::JsonStringToMessage(piece, &made).ok()) throw std::runtime_error(piece);
  return made.string_value();
}

int main(int count, char** words) try {
  if (count < 5) throw std::invalid_argument("give an index, a model, a question and files");
  inferd::Client client;  // to $INFERD_ADDRESS, or to the kernel of this user or host
  const auto indexes = inferd::v1::IndexService::NewStub(client.channel());
  grpc::ClientContext contexts[3];  // one for each call
  for (auto& context : contexts) client.prepare(context, std::chrono::minutes(10));
  inferd::v1::CreateIndexRequest creating;
  inferd::v1::CreateIndexResponse created;
  creating.mutable_spec()->set_name(words[1]);
  client.check(indexes->CreateIndex(&contexts[0], creating, &created));  // one for the same is taken as it is
  inferd::v1::AddDocumentsRequest adding;
  adding.set_index(words[1]);
  for (int i = 4; i < count; i++) {
    adding.add_documents()->set_id(words[i]);
    adding.mutable_documents()->rbegin()->set_text(cleaned(client, words[i]));
  }
  const auto added = indexes->AddDocuments(&contexts[1], adding);
  for (inferd::v1::AddDocumentsResponse told; added->Read(&told);) continue;
  client.check(added->Finish());
  inferd::v1::AnswerQuestionRequest asking;
  asking.set_model(words[2]);
  asking.mutable_query()->set_index(words[1]);
  asking.mutable_query()->set_text(words[3]);
  const auto asked = indexes->AnswerQuestion(&contexts[2], asking);
  for (inferd::v1::AnswerQuestionResponse told; asked->Read(&told);) {
    std::cout << told.text() << std::flush;
    for (const auto& each : told.ended().citations())
      std::cout << "\n[" << each.document_id() << " " << each.start() << "-" << each.end() << "] " << each.quote();
  }
  client.check(asked->Finish());
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
