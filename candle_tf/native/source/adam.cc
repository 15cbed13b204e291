// Adam (Kingma & Ba, ICLR 2015) over all of a model's variables in one operator: weights and both
// moments are read and written once, weight decay before and a bound after the update included.

#include <cmath>
#include <limits>
#include <memory>

#include "kernels.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "work.h"

namespace candle {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;
using tensorflow::errors::InvalidArgument;

REGISTER_OP("CandleAdam")
    .Input("variables: N * resource")
    .Input("m: N * resource")
    .Input("v: N * resource")
    .Input("gradients: G")
    .Input("learning_rate: float")
    .Input("step: int64")
    .Attr("N: int >= 1")
    .Attr("G: list({float, bfloat16}) >= 1")
    .Attr("beta_1: float")
    .Attr("beta_2: float")
    .Attr("epsilon: float")
    .Attr("decays: list(float)")
    .Attr("clips: list(float)")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext*) { return absl::OkStatus(); });

// The values of a variable, to be written: no reader keeps what is changed.
absl::Status writable(OpKernelContext* context, Var* variable, float** values) {
  Tensor* tensor = variable->tensor();
  if (!variable->is_initialized || tensor->dtype() != tensorflow::DT_FLOAT) {
    return InvalidArgument("variables must be float32 and have a value");
  }
  if (!tensor->RefCountIsOne()) {
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
    copy.flat<float>() = tensor->flat<float>();
    *tensor = copy;
  }
  *values = tensor->flat<float>().data();
  return absl::OkStatus();
}

class AdamOp : public OpKernel {
 public:
  explicit AdamOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("beta_1", &beta_1_));
    OP_REQUIRES_OK(c, c->GetAttr("beta_2", &beta_2_));
    OP_REQUIRES_OK(c, c->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(c, c->GetAttr("decays", &decays_));
    OP_REQUIRES_OK(c, c->GetAttr("clips", &clips_));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList handles[3], gradients;
    const char* names[] = {"variables", "m", "v"};
    for (int i = 0; i < 3; ++i) OP_REQUIRES_OK(context, context->input_list(names[i], &handles[i]));
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    const int count = gradients.size();
    OP_REQUIRES(context,
                handles[0].size() == count && int(decays_.size()) == count &&
                    int(clips_.size()) == count,
                InvalidArgument("there must be one gradient, decay and clip for each variable"));
    const Tensor *rate, *step;
    OP_REQUIRES_OK(context, context->input("learning_rate", &rate));
    OP_REQUIRES_OK(context, context->input("step", &step));

    std::vector<RefCountPtr<Var>> variables(3 * count);
    for (int i = 0; i < 3 * count; ++i) {
      OP_REQUIRES_OK(context, tensorflow::LookupResource(
                                  context,
                                  handles[i / count][i % count].scalar<tensorflow::ResourceHandle>()(),
                                  &variables[i]));
    }
    std::vector<tensorflow::mutex*> mutexes;
    for (const auto& variable : variables) mutexes.push_back(variable->mu());
    // In one order, whatever else locks several of them.
    std::sort(mutexes.begin(), mutexes.end());
    mutexes.erase(std::unique(mutexes.begin(), mutexes.end()), mutexes.end());
    std::vector<std::unique_ptr<tensorflow::mutex_lock>> locks;
    for (auto* mutex : mutexes) locks.push_back(std::make_unique<tensorflow::mutex_lock>(*mutex));

    const float base_rate = rate->scalar<float>()();
    const double t = step->scalar<int64_t>()();
    const double corrected = base_rate * std::sqrt(1 - std::pow(double(beta_2_), t)) /
                             (1 - std::pow(double(beta_1_), t));
    std::vector<AdamValues> pieces;
    for (int i = 0; i < count; ++i) {
      AdamValues all = {};
      all.count = gradients[i].NumElements();
      for (int k = 0; k < 3; ++k) {
        Var* variable = variables[k * count + i].get();
        OP_REQUIRES(context, variable->tensor()->NumElements() == all.count,
                    InvalidArgument("a gradient has not the size of its variable"));
        float** to[] = {&all.weights, &all.m, &all.v};
        OP_REQUIRES_OK(context, writable(context, variable, to[k]));
      }
      all.gradient = gradients[i].data();
      all.gradient_type = gradients[i].dtype() == tensorflow::DT_FLOAT ? kFloat : kBfloat16;
      all.rate = corrected;
      all.beta_1 = beta_1_;
      all.beta_2 = beta_2_;
      all.epsilon = epsilon_;
      all.decay = decays_[i] * base_rate;
      all.clip = clips_[i] > 0 ? clips_[i] : std::numeric_limits<float>::infinity();
      append(all, &pieces);
    }
    run_all(context, pieces.size(), 4 * kPiece, [&](int64_t i) { kernels().adam(pieces[i]); });
  }

 private:
  static constexpr int64_t kPiece = 1 << 15;

  static void append(const AdamValues& all, std::vector<AdamValues>* pieces) {
    for (int64_t begin = 0; begin < all.count; begin += kPiece) {
      AdamValues piece = all;
      piece.count = std::min(kPiece, all.count - begin);
      piece.weights += begin;
      piece.m += begin;
      piece.v += begin;
      const int size = all.gradient_type == kFloat ? 4 : 2;
      piece.gradient = static_cast<const char*>(all.gradient) + begin * size;
      pieces->push_back(piece);
    }
  }

  float beta_1_, beta_2_, epsilon_;
  std::vector<float> decays_, clips_;
};

REGISTER_KERNEL_BUILDER(Name("CandleAdam").Device(tensorflow::DEVICE_CPU), AdamOp);

}  // namespace
}  // namespace candle
