// Predict asks a tickserve server for predictions. Its stubs are made from protos/ alone.
//
//   build/predict 127.0.0.1:8500 sp500-logistic

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "tickserve/v1/prediction.grpc.pb.h"

namespace pb = tickserve::v1;
using Clock = std::chrono::system_clock;

// A trading engine beside its server would allow a few milliseconds.
constexpr auto kDeadline = std::chrono::seconds(1);
constexpr auto kFirstBackoff = std::chrono::milliseconds(2);
constexpr std::uint64_t kStreamLength = 8;
constexpr std::uint64_t kStreamBadItem = 3;

// A status with what the server's trailers say of it; they are empty where gRPC itself refused.
class Refusal : public std::runtime_error {
 public:
  Refusal(const grpc::Status& status, const grpc::ClientContext& context)
      : Refusal(status, trailer(context, "tickserve-reason"), trailer(context, "tickserve-executed")) {}

  // Holds where the condition may pass by itself and the server says that the model did not run.
  bool may_retry() const {
    return executed_ == "0" &&
           (code_ == grpc::StatusCode::UNAVAILABLE || code_ == grpc::StatusCode::RESOURCE_EXHAUSTED);
  }

 private:
  Refusal(const grpc::Status& status, const std::string& reason, const std::string& executed)
      : std::runtime_error("status " + std::to_string(status.error_code()) + " / " + reason + ": " +
                           status.error_message() + " (executed: " + executed + ")"),
        code_(status.error_code()),
        executed_(executed) {}

  static std::string trailer(const grpc::ClientContext& context, const char* key) {
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto found = trailers.find(key);
    return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  grpc::StatusCode code_;
  std::string executed_;
};

pb::ModelInfo get_model(pb::Prediction::Stub& client, const std::string& model) {
  pb::GetModelRequest request;
  request.set_model(model);
  grpc::ClientContext context;
  context.set_deadline(Clock::now() + kDeadline);
  // Connecting is the one wait that a first call may have; every later one fails at once without a connection.
  context.set_wait_for_ready(true);
  pb::ModelInfo info;
  const grpc::Status status = client.GetModel(&context, request, &info);
  if (!status.ok()) throw Refusal(status, context);
  return info;
}

// One row at zero. The digest says which order the features are in: the server refuses it when that changed.
pb::PredictRequest make_request(const pb::ModelInfo& info, const std::string& id) {
  const auto& shape = info.inputs(0).shape();
  pb::PredictRequest request;
  request.set_model(info.model());
  request.set_request_id(id);
  request.mutable_features()->Resize(static_cast<int>(shape.Get(shape.size() - 1)), 0.0F);
  request.set_feature_digest(info.feature_digest());
  request.set_event_time_unix_ns(std::chrono::nanoseconds(Clock::now().time_since_epoch()).count());
  return request;
}

// Returns the answer or throws a Refusal. Tries again until the deadline, but only what cannot count twice.
pb::PredictResponse predict(pb::Prediction::Stub& client, const pb::PredictRequest& request) {
  const auto end = Clock::now() + kDeadline;
  for (auto backoff = kFirstBackoff;; backoff *= 2) {
    grpc::ClientContext context;
    context.set_deadline(end);
    pb::PredictResponse answer;
    const grpc::Status status = client.Predict(&context, request, &answer);
    if (status.ok()) return answer;
    const Refusal refusal(status, context);
    if (!refusal.may_retry() || Clock::now() + backoff > end) throw refusal;
    std::this_thread::sleep_for(backoff);
  }
}

std::string text_of(const google::protobuf::RepeatedField<float>& values) {
  std::ostringstream text;
  for (const float value : values) text << value << ' ';
  return text.str();
}

using Stream = grpc::ClientReaderWriter<pb::PredictStreamRequest, pb::PredictStreamResponse>;

void send_all(Stream& open, const pb::ModelInfo& info) {
  for (std::uint64_t sequence = 0; sequence < kStreamLength; ++sequence) {
    pb::PredictStreamRequest message;
    message.set_sequence(sequence);
    *message.mutable_predict() = make_request(info, "cpp-stream-" + std::to_string(sequence));
    message.mutable_predict()->set_timeout_us(std::chrono::microseconds(kDeadline).count());
    if (sequence == kStreamBadItem) message.mutable_predict()->set_feature_digest(std::string(32, '\0'));
    if (!open.Write(message)) return;  // Finish says why.
  }
  open.WritesDone();
}

// Throws where `received` is not what the request of that sequence should get.
void check(std::uint64_t sequence, const pb::PredictStreamResponse& received) {
  if (received.sequence() != sequence || received.has_error() != (sequence == kStreamBadItem))
    throw std::runtime_error("the stream answered " + std::to_string(sequence) + " with " + received.DebugString());
}

// Sends requests without waiting for answers; one of them is bad, which must not end the stream.
void stream(pb::Prediction::Stub& client, const pb::ModelInfo& info) {
  grpc::ClientContext context;
  context.set_deadline(Clock::now() + kDeadline);
  const std::unique_ptr<Stream> open = client.PredictStream(&context);
  std::thread writer([&] { send_all(*open, info); });
  std::uint64_t answered = 0;
  std::exception_ptr failure;
  for (pb::PredictStreamResponse received; open->Read(&received); ++answered) {
    try {
      check(answered, received);
    } catch (...) {
      failure = std::current_exception();
      context.TryCancel();
      break;
    }
    if (received.has_error())
      std::cout << "stream " << answered << ": " << pb::Reason_Name(received.error().reason()) << ": "
                << received.error().message() << " (executed: " << std::boolalpha << received.error().executed()
                << ")\n";
    else
      std::cout << "stream " << answered << ": values " << text_of(received.answer().values()) << '\n';
  }
  writer.join();
  const grpc::Status status = open->Finish();
  if (failure) std::rethrow_exception(failure);
  if (!status.ok()) throw Refusal(status, context);
  if (answered != kStreamLength) throw std::runtime_error("the stream ended early");
}

void run(const std::string& address, const std::string& model) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // The server is near.
  const auto client =
      pb::Prediction::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));

  const pb::ModelInfo info = get_model(*client, model);
  std::cout << info.model() << " version " << info.version() << " takes " << info.feature_names_size()
            << " features\n";

  const pb::PredictResponse answer = predict(*client, make_request(info, "cpp-1"));
  std::cout << answer.request_id() << ": values " << text_of(answer.values()) << "signal " << text_of(answer.signal())
            << "version " << answer.version() << " (" << pb::Role_Name(answer.role()) << "), "
            << answer.server_duration_ns() / 1000 << " us in the server\n";

  pb::PredictRequest bad = make_request(info, "cpp-2");
  bad.set_features(0, std::numeric_limits<float>::quiet_NaN());
  bool is_refused = false;
  try {
    predict(*client, bad);
  } catch (const Refusal& refusal) {
    is_refused = true;
    std::cout << "cpp-2: " << refusal.what() << '\n';
  }
  if (!is_refused) throw std::runtime_error("a NaN was answered");

  stream(*client, info);
}

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: predict ADDRESS MODEL\n";
    return 2;
  }
  try {
    run(arguments[1], arguments[2]);
  } catch (const std::exception& error) {
    std::cerr << "predict: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
