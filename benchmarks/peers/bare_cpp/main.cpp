// The bare C++ peer: one ONNX model behind an asynchronous gRPC server, with no validation, routing, metrics or limits.
//
//   bare_cpp MODEL.onnx NAME HOST:PORT THREADS
//
// Each thread polls one completion queue and runs the model there; ModelInfer and ModelStreamInfer for models of one
// float32 input and float32 outputs, and the calls that load generators make before them.

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "inference/grpc_service.grpc.pb.h"
#include "onnxruntime_c_api.h"

namespace {

using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

const OrtApi* ort = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "ONNX Runtime: %s\n", ort->GetErrorMessage(status));
  std::exit(1);
}

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
};

// One loaded model; `run` may be called from any thread.
class Model {
 public:
  Model(const char* path, std::string name) : name_(std::move(name)) {
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "bare", &env_));
    OrtSessionOptions* options = nullptr;
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, 1));
    check(ort->SetInterOpNumThreads(options, 1));
    check(ort->SetSessionExecutionMode(options, ORT_SEQUENTIAL));
    check(ort->DisableCpuMemArena(options));
    check(ort->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
    check(ort->CreateSession(env_, path, options, &session_));
    ort->ReleaseSessionOptions(options);
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    read(true);
    read(false);
    for (const Tensor& tensor : outputs_) output_names_.push_back(tensor.name.c_str());
  }

  const std::string& name() const { return name_; }
  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  uint64_t inferences() const { return inferences_.load(std::memory_order_relaxed); }

  void run(const ModelInferRequest& request, ModelInferResponse* response) {
    const auto& tensor = request.inputs(0);
    std::string raw = request.raw_input_contents(0);
    OrtValue* input = nullptr;
    check(ort->CreateTensorWithDataAsOrtValue(memory_, raw.data(), raw.size(), tensor.shape().data(),
                                              static_cast<size_t>(tensor.shape_size()),
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
    const char* input_name = inputs_[0].name.c_str();
    std::vector<OrtValue*> values(outputs_.size(), nullptr);
    check(ort->Run(session_, nullptr, &input_name, &input, 1, output_names_.data(), output_names_.size(),
                   values.data()));
    response->set_model_name(name_);
    response->set_model_version("1");
    response->set_id(request.id());
    for (size_t index = 0; index < values.size(); ++index) {
      OrtTensorTypeAndShapeInfo* info = nullptr;
      check(ort->GetTensorTypeAndShape(values[index], &info));
      size_t rank = 0, count = 0;
      check(ort->GetDimensionsCount(info, &rank));
      check(ort->GetTensorShapeElementCount(info, &count));
      std::vector<int64_t> shape(rank);
      check(ort->GetDimensions(info, shape.data(), rank));
      ort->ReleaseTensorTypeAndShapeInfo(info);
      auto* output = response->add_outputs();
      output->set_name(outputs_[index].name);
      output->set_datatype("FP32");
      for (int64_t size : shape) output->add_shape(size);
      void* data = nullptr;
      check(ort->GetTensorMutableData(values[index], &data));
      response->add_raw_output_contents(data, count * sizeof(float));
      ort->ReleaseValue(values[index]);
    }
    ort->ReleaseValue(input);
    inferences_.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  void read(bool is_input) {
    OrtAllocator* allocator = nullptr;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    size_t count = 0;
    check(is_input ? ort->SessionGetInputCount(session_, &count) : ort->SessionGetOutputCount(session_, &count));
    for (size_t index = 0; index < count; ++index) {
      char* name = nullptr;
      OrtTypeInfo* type = nullptr;
      check(is_input ? ort->SessionGetInputName(session_, index, allocator, &name)
                     : ort->SessionGetOutputName(session_, index, allocator, &name));
      check(is_input ? ort->SessionGetInputTypeInfo(session_, index, &type)
                     : ort->SessionGetOutputTypeInfo(session_, index, &type));
      const OrtTensorTypeAndShapeInfo* info = nullptr;
      check(ort->CastTypeInfoToTensorInfo(type, &info));
      size_t rank = 0;
      check(ort->GetDimensionsCount(info, &rank));
      Tensor tensor{name, std::vector<int64_t>(rank)};
      check(ort->GetDimensions(info, tensor.shape.data(), rank));
      (is_input ? inputs_ : outputs_).push_back(std::move(tensor));
      ort->ReleaseTypeInfo(type);
      allocator->Free(allocator, name);
    }
  }

  std::string name_;
  OrtEnv* env_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<Tensor> inputs_, outputs_;
  std::vector<const char*> output_names_;
  std::atomic<uint64_t> inferences_{0};
};

// The calls that are not measured, answered by gRPC's own threads.
class Describing : public GRPCInferenceService::Service {
 public:
  // Generated classes that derive from this one construct it without arguments.
  void describe(Model& model) { model_ = &model; }

  grpc::Status ServerLive(grpc::ServerContext*, const inference::ServerLiveRequest*,
                          inference::ServerLiveResponse* response) override {
    response->set_live(true);
    return grpc::Status::OK;
  }
  grpc::Status ServerReady(grpc::ServerContext*, const inference::ServerReadyRequest*,
                           inference::ServerReadyResponse* response) override {
    response->set_ready(true);
    return grpc::Status::OK;
  }
  grpc::Status ModelReady(grpc::ServerContext*, const inference::ModelReadyRequest*,
                          inference::ModelReadyResponse* response) override {
    response->set_ready(true);
    return grpc::Status::OK;
  }
  grpc::Status ServerMetadata(grpc::ServerContext*, const inference::ServerMetadataRequest*,
                              inference::ServerMetadataResponse* response) override {
    response->set_name("bare_cpp");
    response->set_version("1");
    return grpc::Status::OK;
  }
  grpc::Status ModelMetadata(grpc::ServerContext*, const inference::ModelMetadataRequest*,
                             inference::ModelMetadataResponse* response) override {
    response->set_name(model_->name());
    response->add_versions("1");
    response->set_platform("onnxruntime_onnx");
    for (const Tensor& tensor : model_->inputs()) fill(tensor, response->add_inputs());
    for (const Tensor& tensor : model_->outputs()) fill(tensor, response->add_outputs());
    return grpc::Status::OK;
  }
  grpc::Status ModelConfig(grpc::ServerContext*, const inference::ModelConfigRequest*,
                           inference::ModelConfigResponse* response) override {
    auto* config = response->mutable_config();
    config->set_name(model_->name());
    config->set_platform("onnxruntime_onnx");
    config->set_backend("onnxruntime");
    for (const Tensor& tensor : model_->inputs()) {
      auto* input = config->add_input();
      input->set_name(tensor.name);
      input->set_data_type(inference::TYPE_FP32);
      for (int64_t size : tensor.shape) input->add_dims(size);
    }
    for (const Tensor& tensor : model_->outputs()) {
      auto* output = config->add_output();
      output->set_name(tensor.name);
      output->set_data_type(inference::TYPE_FP32);
      for (int64_t size : tensor.shape) output->add_dims(size);
    }
    return grpc::Status::OK;
  }
  grpc::Status ModelStatistics(grpc::ServerContext*, const inference::ModelStatisticsRequest*,
                               inference::ModelStatisticsResponse* response) override {
    auto* statistics = response->add_model_stats();
    statistics->set_name(model_->name());
    statistics->set_version("1");
    statistics->set_inference_count(model_->inferences());
    return grpc::Status::OK;
  }

 private:
  template <typename Metadata>
  static void fill(const Tensor& tensor, Metadata* metadata) {
    metadata->set_name(tensor.name);
    metadata->set_datatype("FP32");
    for (int64_t size : tensor.shape) metadata->add_shape(size);
  }

  Model* model_ = nullptr;
};

using Service =
    GRPCInferenceService::WithAsyncMethod_ModelInfer<GRPCInferenceService::WithAsyncMethod_ModelStreamInfer<Describing>>;

// What a completion queue gives back; `proceed` deletes the tag when its call is over.
class Tag {
 public:
  virtual ~Tag() = default;
  virtual void proceed(bool ok) = 0;
};

class Unary : public Tag {
 public:
  Unary(Service& service, Model& model, grpc::ServerCompletionQueue& queue)
      : service_(service), model_(model), queue_(queue), responder_(&context_) {
    service_.RequestModelInfer(&context_, &request_, &responder_, &queue_, &queue_, this);
  }

  void proceed(bool ok) override {
    if (!ok || is_done_) {
      delete this;
      return;
    }
    new Unary(service_, model_, queue_);
    model_.run(request_, &response_);
    is_done_ = true;
    responder_.Finish(response_, grpc::Status::OK, this);
  }

 private:
  Service& service_;
  Model& model_;
  grpc::ServerCompletionQueue& queue_;
  grpc::ServerContext context_;
  ModelInferRequest request_;
  ModelInferResponse response_;
  grpc::ServerAsyncResponseWriter<ModelInferResponse> responder_;
  bool is_done_ = false;
};

class Stream : public Tag {
 public:
  Stream(Service& service, Model& model, grpc::ServerCompletionQueue& queue)
      : service_(service), model_(model), queue_(queue), stream_(&context_) {
    service_.RequestModelStreamInfer(&context_, &stream_, &queue_, &queue_, this);
  }

  void proceed(bool ok) override {
    switch (state_) {
      case State::kAccept:
        if (!ok) {
          delete this;
          return;
        }
        new Stream(service_, model_, queue_);
        state_ = State::kRead;
        stream_.Read(&request_, this);
        return;
      case State::kRead:
        if (!ok) {
          state_ = State::kFinish;
          stream_.Finish(grpc::Status::OK, this);
          return;
        }
        response_.Clear();
        model_.run(request_, response_.mutable_infer_response());
        state_ = State::kWrite;
        stream_.Write(response_, this);
        return;
      case State::kWrite:
        state_ = ok ? State::kRead : State::kFinish;
        if (ok) {
          stream_.Read(&request_, this);
        } else {
          stream_.Finish(grpc::Status::OK, this);
        }
        return;
      case State::kFinish:
        delete this;
    }
  }

 private:
  enum class State { kAccept, kRead, kWrite, kFinish };

  Service& service_;
  Model& model_;
  grpc::ServerCompletionQueue& queue_;
  grpc::ServerContext context_;
  ModelInferRequest request_;
  ModelStreamInferResponse response_;
  grpc::ServerAsyncReaderWriter<ModelStreamInferResponse, ModelInferRequest> stream_;
  State state_ = State::kAccept;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: %s MODEL.onnx NAME HOST:PORT THREADS\n", arguments[0]);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == nullptr) {
    std::fprintf(stderr, "ONNX Runtime is older than its header\n");
    return 2;
  }
  // Blocked before any thread starts, so that only sigwait takes it.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  Model model(arguments[1], arguments[2]);
  Service service;
  service.describe(model);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(arguments[3], grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues;
  for (int index = 0; index < std::atoi(arguments[4]); ++index) queues.push_back(builder.AddCompletionQueue());
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "cannot listen on %s\n", arguments[3]);
    return 2;
  }
  std::vector<std::thread> threads;
  for (auto& queue : queues) {
    threads.emplace_back([&service, &model, &queue] {
      // As many calls waiting to be matched as clients may send at once.
      for (int index = 0; index < 64; ++index) new Unary(service, model, *queue);
      for (int index = 0; index < 16; ++index) new Stream(service, model, *queue);
      void* tag = nullptr;
      bool ok = false;
      while (queue->Next(&tag, &ok)) static_cast<Tag*>(tag)->proceed(ok);
    });
  }
  int received = 0;
  sigwait(&ends, &received);
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  for (auto& queue : queues) queue->Shutdown();
  for (auto& thread : threads) thread.join();
  return 0;
}
