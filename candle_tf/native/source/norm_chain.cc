// Batch normalisation with all that follows it up to the next binary convolution, in one operator,
// and its gradient in another. The mean and the variance are those of the batch, or given ones (in
// evaluation), and then there is no gradient.
//
//   x_k' = relu ? max(x_k, 0) : x_k                          of each branch k
//   v_k  = gamma_k s_k (x_k' - mean_k) / sqrt(s_k^2 variance_k + epsilon) + beta_k (+ shortcut)
//   v    = the v_k side by side along the channels
//   y    = t > 0 ? t : slope t, + shift_out                with t = v + shift_in
//   s    = y + shift >= 0 ? 1 : -1
//
// The output is written in one pass after one for the statistics; the gradient is one pass that
// reads everything and leaves dv and all sums, and one that makes the gradient of x of it.

#include <cmath>
#include <limits>
#include <string>

#include "kernels.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace candle {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status chain_shapes(InferenceContext* c) {
  int branches;
  TF_RETURN_IF_ERROR(c->GetAttr("K", &branches));
  ShapeHandle x = c->input(0), y = x, channels;
  if (c->RankKnown(x)) {
    DimensionHandle each = c->Dim(x, -1), all;
    TF_RETURN_IF_ERROR(c->Multiply(each, branches, &all));
    TF_RETURN_IF_ERROR(c->ReplaceDim(x, -1, all, &y));
    channels = c->Vector(all);
  } else {
    channels = c->Vector(c->UnknownDim());
  }
  std::string sign;
  TF_RETURN_IF_ERROR(c->GetAttr("sign", &sign));
  c->set_output(0, y);
  c->set_output(1, sign == "none" ? c->Vector(0) : y);
  for (int i = 2; i < 6; ++i) c->set_output(i, channels);
  return absl::OkStatus();
}

absl::Status chain_gradient_shapes(InferenceContext* c) {
  int branches, shortcuts, activations, shifts;
  TF_RETURN_IF_ERROR(c->GetAttr("K", &branches));
  TF_RETURN_IF_ERROR(c->GetAttr("M", &shortcuts));
  TF_RETURN_IF_ERROR(c->GetAttr("A", &activations));
  TF_RETURN_IF_ERROR(c->GetAttr("S", &shifts));
  int input = 2, output = 0;
  const auto same = [&](int count) {
    for (int i = 0; i < count; ++i) c->set_output(output++, c->input(input++));
  };
  same(branches);          // dx
  input += branches;       // scales have no gradient
  same(branches);          // dgamma
  same(branches);          // dbeta
  same(shortcuts);
  same(activations);
  same(shifts);
  return absl::OkStatus();
}

#define CANDLE_CHAIN_INPUTS(op)                                                       \
  op.Input("x: K * T")                                                               \
      .Input("scale: K * float")                                                     \
      .Input("gamma: K * float")                                                     \
      .Input("beta: K * float")                                                      \
      .Input("shortcut: M * float")                                                  \
      .Input("activation: A * float")                                                \
      .Input("shift: S * float")                                                     \
      .Attr("K: int >= 1")                                                           \
      .Attr("M: int >= 0")                                                           \
      .Attr("A: int >= 0")                                                           \
      .Attr("S: int >= 0")                                                           \
      .Attr("T: {float, bfloat16}")                                                  \
      .Attr("U: {float, bfloat16}")                                                  \
      .Attr("epsilon: float")                                                        \
      .Attr("relu: bool = false")                                                    \
      .Attr("sign: {'none', 'quadratic', 'clipped'} = 'none'")                       \
      .Attr("clip: float = 1.0")

CANDLE_CHAIN_INPUTS(REGISTER_OP("CandleNormChain"))
    .Input("given: G * float")
    .Attr("G: int >= 0")
    .Output("y: float")
    .Output("signs: U")
    .Output("mean: float")
    .Output("variance: float")
    .Output("batch_mean: float")
    .Output("batch_variance: float")
    .SetShapeFn(chain_shapes);

CANDLE_CHAIN_INPUTS(REGISTER_OP("CandleNormChainGrad").Input("dy: float").Input("d_signs: U"))
    .Input("mean: float")
    .Input("variance: float")
    .Output("dx: K * T")
    .Output("d_gamma: K * float")
    .Output("d_beta: K * float")
    .Output("d_shortcut: M * float")
    .Output("d_activation: A * float")
    .Output("d_shift: S * float")
    .SetShapeFn(chain_gradient_shapes);

const float* floats(const Tensor& tensor) { return tensor.flat<float>().data(); }

// The pointer to a value of a matrix of either type.
const void* at(const void* base, Type type, int64_t index) {
  return static_cast<const char*>(base) + index * (type == kFloat ? 4 : 2);
}
void* at(void* base, Type type, int64_t index) {
  return static_cast<char*>(base) + index * (type == kFloat ? 4 : 2);
}

// The inputs that the operator and its gradient share, checked.
class Chain {
 public:
  OpInputList x, scale, gamma, beta, shortcut, activation, shift;
  int64_t channels = 0;    // of a branch
  int64_t pixels = 0;
  int branches = 0;

  explicit Chain(OpKernelConstruction* c) {
    std::string sign;
    OP_REQUIRES_OK(c, c->GetAttr("epsilon", &epsilon_));
    OP_REQUIRES_OK(c, c->GetAttr("relu", &relu_));
    OP_REQUIRES_OK(c, c->GetAttr("sign", &sign));
    OP_REQUIRES_OK(c, c->GetAttr("clip", &clip_));
    tensorflow::DataType type;
    OP_REQUIRES_OK(c, c->GetAttr("U", &type));
    bfloat16_signs_ = type == tensorflow::DT_BFLOAT16;
    sign_ = sign == "none" ? kNoSign : sign == "quadratic" ? kQuadratic : kClipped;
  }

  Chain(const Chain&) = default;

  absl::Status read(OpKernelContext* c) {
    TF_RETURN_IF_ERROR(c->input_list("x", &x));
    TF_RETURN_IF_ERROR(c->input_list("scale", &scale));
    TF_RETURN_IF_ERROR(c->input_list("gamma", &gamma));
    TF_RETURN_IF_ERROR(c->input_list("beta", &beta));
    TF_RETURN_IF_ERROR(c->input_list("shortcut", &shortcut));
    TF_RETURN_IF_ERROR(c->input_list("activation", &activation));
    TF_RETURN_IF_ERROR(c->input_list("shift", &shift));
    return checked();
  }

  Sign sign() const { return sign_; }
  float floor() const { return relu_ ? 0.0f : -std::numeric_limits<float>::infinity(); }
  bool activated() const { return activation.size() > 0; }
  int64_t all_channels() const { return channels * branches; }

  // 1 / sqrt(variance + epsilon) of scale * x', from the variance of x'.
  double inverse_deviation(float scale, float variance) const {
    return 1.0 / std::sqrt(double(scale) * scale * variance + epsilon_);
  }

  // What both directions read, for one branch; `row` is of all branches' channels.
  ChainRows rows_of(int branch, const std::vector<float>& a, const std::vector<float>& b) const {
    ChainRows rows = {};
    rows.x_type = type_of(x[branch]);
    rows.sign = sign_;
    rows.floor = floor();
    rows.clip = clip_;
    rows.a = a.data();
    rows.b = b.data();
    return rows;
  }

 private:
  absl::Status checked() {
    branches = x.size();
    if (x[0].dims() < 2) return InvalidArgument("x must have rank 2 at least");
    channels = x[0].dim_size(x[0].dims() - 1);
    if (channels == 0) return InvalidArgument("x has no channels");
    pixels = x[0].NumElements() / channels;
    for (int k = 0; k < branches; ++k) {
      if (x[k].shape() != x[0].shape()) return InvalidArgument("branches differ in shape");
      for (const auto* each : {&scale, &gamma, &beta}) {
        if ((*each)[k].NumElements() != channels) {
          return InvalidArgument("expected ", channels, " parameters of a branch, got ",
                                 (*each)[k].NumElements());
        }
      }
    }
    if (shortcut.size() > 1 || (shortcut.size() == 1 && shortcut[0].shape() != x[0].shape())) {
      return InvalidArgument("the shortcut must be one tensor of a branch's shape");
    }
    if (sign_ != kNoSign && x[0].dtype() == tensorflow::DT_BFLOAT16 && !bfloat16_signs_) {
      return InvalidArgument("a bfloat16 map has bfloat16 signs");
    }
    if (activation.size() != 0 && activation.size() != 3) {
      return InvalidArgument("an activation is shift, slope and shift");
    }
    if (shift.size() != (sign_ == kNoSign ? 0 : 1)) {
      return InvalidArgument("a sign takes one shift");
    }
    for (const auto* list : {&activation, &shift}) {
      for (int i = 0; i < list->size(); ++i) {
        if ((*list)[i].NumElements() != all_channels()) {
          return InvalidArgument("expected ", all_channels(), " parameters, got ",
                                 (*list)[i].NumElements());
        }
      }
    }
    return absl::OkStatus();
  }

  float epsilon_ = 0, clip_ = 1;
  bool relu_ = false, bfloat16_signs_ = false;
  Sign sign_ = kNoSign;
};

// Mean and variance of x' of a branch, without its scale.
struct Moments {
  std::vector<double> mean, variance;
};

Moments moments_of(OpKernelContext* context, const Chain& chain, int branch, const Rows& rows) {
  const Tensor& x = chain.x[branch];
  const Type type = type_of(x);
  const void* base = x.data();
  // Sums are of the distance to the mean of the first rows: squares of large values that are near
  // each other would lose what they differ by.
  std::vector<float> center(rows.width, 0.0f);
  const auto add = [&](int64_t first, int64_t count, int64_t width, float* sum, float* square) {
    kernels().moments({type, count, width, at(base, type, first * rows.width), chain.floor(),
                       center.data(), sum, square});
  };
  {
    std::vector<float> sum(rows.width, 0.0f), square(rows.width, 0.0f);
    const int64_t some = std::min<int64_t>(16, rows.pixels / rows.repeats);
    if (some > 0) add(0, some, rows.width, sum.data(), square.data());
    center = rows.repeated([&](int64_t channel) {
      double total = 0;
      for (int64_t r = 0; r < rows.repeats; ++r) total += sum[r * rows.channels + channel];
      const float mean = some > 0 ? total / (some * rows.repeats) : 0.0;
      return std::isfinite(mean) ? mean : 0.0f;
    });
  }
  Sums sums(rows, 2);
  run_all(context, rows.chunks, rows.chunk_rows * rows.width, [&](int64_t chunk) {
    rows.of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
      add(first, count, width, sums.of(chunk, 0), sums.of(chunk, 1));
    });
  });
  Moments result = {sums.total(0), sums.total(1)};
  const double n = std::max<int64_t>(rows.pixels, 1);
  for (int64_t c = 0; c < rows.channels; ++c) {
    const double offset = result.mean[c] / n;
    // A maximum that keeps what is not a number.
    const double variance = result.variance[c] / n - offset * offset;
    result.variance[c] = variance < 0.0 ? 0.0 : variance;
    result.mean[c] = center[c] + offset;
  }
  return result;
}

absl::Status check_given(const OpInputList& given, int64_t channels) {
  if (given.size() == 0) return absl::OkStatus();
  if (given.size() != 2) return InvalidArgument("given are a mean and a variance, or nothing");
  for (int i = 0; i < 2; ++i) {
    if (given[i].NumElements() != channels) {
      return InvalidArgument("expected ", channels, " given means and variances, got ",
                             given[i].NumElements());
    }
  }
  return absl::OkStatus();
}

// The given ones are of scale * x'.
Moments moments_given(const OpInputList& given, const Chain& chain, int branch,
                      const float* scale) {
  Moments result = {std::vector<double>(chain.channels), std::vector<double>(chain.channels)};
  for (int64_t c = 0; c < chain.channels; ++c) {
    const int64_t from = branch * chain.channels + c;
    result.mean[c] = floats(given[0])[from] / double(scale[c]);
    result.variance[c] = floats(given[1])[from] / (double(scale[c]) * scale[c]);
  }
  return result;
}

class NormChainOp : public OpKernel {
 public:
  explicit NormChainOp(OpKernelConstruction* c) : OpKernel(c), settings_(c) {}

  void Compute(OpKernelContext* context) override {
    Chain chain = settings_;
    OP_REQUIRES_OK(context, chain.read(context));
    const Rows rows(chain.pixels, chain.channels, chain.branches == 1);
    TensorShape shape = chain.x[0].shape();
    shape.set_dim(shape.dims() - 1, chain.all_channels());
    const TensorShape sign_shape = chain.sign() == kNoSign ? TensorShape({0}) : shape;
    Tensor *y, *signs, *mean, *variance, *batch_mean, *batch_variance;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, sign_shape, &signs));
    const TensorShape vector({chain.all_channels()});
    OP_REQUIRES_OK(context, context->allocate_output(2, vector, &mean));
    OP_REQUIRES_OK(context, context->allocate_output(3, vector, &variance));
    OP_REQUIRES_OK(context, context->allocate_output(4, vector, &batch_mean));
    OP_REQUIRES_OK(context, context->allocate_output(5, vector, &batch_variance));

    OpInputList given;
    OP_REQUIRES_OK(context, context->input_list("given", &given));
    OP_REQUIRES_OK(context, check_given(given, chain.all_channels()));
    for (int k = 0; k < chain.branches; ++k) {
      const float* scale = floats(chain.scale[k]);
      const Moments moments = given.size() ? moments_given(given, chain, k, scale)
                                           : moments_of(context, chain, k, rows);
      const double n = chain.pixels, unbias = given.size() ? 1.0 : n / std::max(n - 1, 1.0);
      for (int64_t c = 0; c < chain.channels; ++c) {
        const int64_t to = k * chain.channels + c;
        mean->flat<float>()(to) = moments.mean[c];
        variance->flat<float>()(to) = moments.variance[c];
        batch_mean->flat<float>()(to) = scale[c] * moments.mean[c];
        batch_variance->flat<float>()(to) = unbias * scale[c] * scale[c] * moments.variance[c];
      }
    }
    if (chain.pixels == 0) return;
    for (int k = 0; k < chain.branches; ++k) {
      write(context, chain, rows, k, floats(*mean), floats(*variance), y, signs);
    }
  }

 private:
  static void write(OpKernelContext* context, const Chain& chain, const Rows& rows, int branch,
                    const float* mean, const float* variance, Tensor* y, Tensor* signs);

  const Chain settings_;
};

// Parameters of a branch as rows of the kernels take them.
struct Parameters {
  std::vector<float> a, b, mean, slope, shift_out, shift;

  Parameters(const Chain& chain, const Rows& rows, int branch, const float* all_means,
             const float* all_variances) {
    const int64_t offset = branch * chain.channels;
    const float* scale = floats(chain.scale[branch]);
    const float* gamma = floats(chain.gamma[branch]);
    const float* beta = floats(chain.beta[branch]);
    const float* means = all_means + offset;
    const float* variances = all_variances + offset;
    const float* shift_in = chain.activated() ? floats(chain.activation[0]) + offset : nullptr;
    a = rows.repeated([&](int64_t c) {
      return scale[c] * gamma[c] * chain.inverse_deviation(scale[c], variances[c]);
    });
    b = rows.repeated([&](int64_t c) { return beta[c] + (shift_in ? shift_in[c] : 0.0f); });
    mean = rows.repeated([&](int64_t c) { return means[c]; });
    const auto copied = [&](const OpInputList& list, int index) {
      const float* values = floats(list[index]) + offset;
      return rows.repeated([values](int64_t c) { return values[c]; });
    };
    // Without an activation, one that changes nothing: there is no loop of its own for that.
    slope = chain.activated() ? copied(chain.activation, 1) : std::vector<float>(rows.width, 1.0f);
    shift_out =
        chain.activated() ? copied(chain.activation, 2) : std::vector<float>(rows.width, 0.0f);
    if (chain.sign() != kNoSign) shift = copied(chain.shift, 0);
  }

  // Fills in what both directions take, for rows from `first` on.
  ChainRows of(const Chain& chain, const Rows& rows, int branch, int64_t first, int64_t count,
               int64_t width) const {
    ChainRows r = chain.rows_of(branch, a, b);
    r.rows = count;
    r.width = width;
    r.y_stride = chain.branches * rows.width;
    r.x = at(static_cast<const void*>(chain.x[branch].data()), r.x_type, first * rows.width);
    if (chain.shortcut.size()) r.shortcut = floats(chain.shortcut[0]) + first * rows.width;
    r.mean = mean.data();
    r.slope = slope.data();
    r.shift_out = shift_out.data();
    if (chain.sign() != kNoSign) r.shift = shift.data();
    return r;
  }
};

void NormChainOp::write(OpKernelContext* context, const Chain& chain, const Rows& rows, int branch,
                        const float* mean, const float* variance, Tensor* y, Tensor* signs) {
  const Parameters parameters(chain, rows, branch, mean, variance);
  const Type sign_type = type_of(*signs);
  run_all(context, rows.chunks, rows.chunk_rows * rows.width * 2, [&](int64_t chunk) {
    rows.of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
      ChainRows r = parameters.of(chain, rows, branch, first, count, width);
      const int64_t to = first * r.y_stride + branch * rows.width;
      r.y = y->flat<float>().data() + to;
      r.sign_type = sign_type;
      if (chain.sign() != kNoSign) r.signs = at(signs->data(), sign_type, to);
      kernels().chain_forward(r);
    });
  });
}

class NormChainGradOp : public OpKernel {
 public:
  explicit NormChainGradOp(OpKernelConstruction* c) : OpKernel(c), settings_(c) {}

  void Compute(OpKernelContext* context) override {
    Chain chain = settings_;
    OP_REQUIRES_OK(context, chain.read(context));
    const Tensor *dy, *d_signs, *mean, *variance;
    OP_REQUIRES_OK(context, context->input("dy", &dy));
    OP_REQUIRES_OK(context, context->input("d_signs", &d_signs));
    OP_REQUIRES_OK(context, context->input("mean", &mean));
    OP_REQUIRES_OK(context, context->input("variance", &variance));
    const int64_t values = chain.pixels * chain.all_channels();
    OP_REQUIRES(context, dy->NumElements() == values, InvalidArgument("dy has the wrong size"));
    OP_REQUIRES(context, chain.sign() == kNoSign || d_signs->NumElements() == values,
                InvalidArgument("d_signs has the wrong size"));
    OP_REQUIRES(context, mean->NumElements() == chain.all_channels() &&
                             variance->NumElements() == chain.all_channels(),
                InvalidArgument("mean and variance have the wrong size"));
    OpOutputList dx, d_gamma, d_beta, d_shortcut, d_activation, d_shift;
    OP_REQUIRES_OK(context, context->output_list("dx", &dx));
    OP_REQUIRES_OK(context, context->output_list("d_gamma", &d_gamma));
    OP_REQUIRES_OK(context, context->output_list("d_beta", &d_beta));
    OP_REQUIRES_OK(context, context->output_list("d_shortcut", &d_shortcut));
    OP_REQUIRES_OK(context, context->output_list("d_activation", &d_activation));
    OP_REQUIRES_OK(context, context->output_list("d_shift", &d_shift));

    // What flows to v is the shortcut's gradient, where there is one branch.
    const bool to_shortcut = chain.shortcut.size() && chain.branches == 1;
    Tensor own, *dv = &own;
    if (to_shortcut) {
      OP_REQUIRES_OK(context, d_shortcut.allocate(0, chain.shortcut[0].shape(), &dv));
    } else {
      OP_REQUIRES_OK(context,
                     context->allocate_temp(tensorflow::DT_FLOAT, TensorShape({values}), &own));
    }
    std::vector<Tensor*> activation(chain.activation.size()), shift(chain.shift.size());
    for (int i = 0; i < chain.activation.size(); ++i) {
      OP_REQUIRES_OK(context,
                     d_activation.allocate(i, chain.activation[i].shape(), &activation[i]));
    }
    for (int i = 0; i < chain.shift.size(); ++i) {
      OP_REQUIRES_OK(context, d_shift.allocate(i, chain.shift[i].shape(), &shift[i]));
    }
    const Rows rows(chain.pixels, chain.channels, chain.branches == 1);
    for (int k = 0; k < chain.branches; ++k) {
      Tensor *to_x, *to_gamma, *to_beta;
      OP_REQUIRES_OK(context, dx.allocate(k, chain.x[k].shape(), &to_x));
      OP_REQUIRES_OK(context, d_gamma.allocate(k, chain.gamma[k].shape(), &to_gamma));
      OP_REQUIRES_OK(context, d_beta.allocate(k, chain.beta[k].shape(), &to_beta));
      const Parameters parameters(chain, rows, k, floats(*mean), floats(*variance));
      Sums sums(rows, kKinds);
      reduce(context, chain, rows, k, parameters, *dy, *d_signs, dv, &sums);
      const std::vector<double> sum_dv = sums.total(kDv), sum_dv_x = sums.total(kDvX);
      const int64_t offset = k * chain.channels;
      const auto give = [&](int kind, Tensor* to) {
        const std::vector<double> total = sums.total(kind);
        std::copy(total.begin(), total.end(), to->flat<float>().data() + offset);
      };
      if (chain.activated()) {
        std::copy(sum_dv.begin(), sum_dv.end(), activation[0]->flat<float>().data() + offset);
        give(kSlope, activation[1]);
        give(kDy, activation[2]);
      }
      if (chain.sign() != kNoSign) give(kSigns, shift[0]);
      const float* scale = floats(chain.scale[k]);
      const auto inverse = [&](int64_t c) {
        return chain.inverse_deviation(scale[c], variance->flat<float>()(offset + c));
      };
      for (int64_t c = 0; c < chain.channels; ++c) {
        to_beta->flat<float>()(c) = sum_dv[c];
        to_gamma->flat<float>()(c) = sum_dv_x[c] * scale[c] * inverse(c);
      }
      // dx = scale gamma / sigma (dv - mean(dv) - (x' - mean) mean(dv (x' - mean)) / sigma^2)
      const double n = std::max<int64_t>(chain.pixels, 1);
      const float* gamma = floats(chain.gamma[k]);
      const auto a = rows.repeated([&](int64_t c) { return scale[c] * gamma[c] * inverse(c); });
      const auto b = rows.repeated([&](int64_t c) {
        const double ratio = scale[c] * inverse(c);
        return -gamma[c] * ratio * ratio * ratio * sum_dv_x[c] / n;
      });
      const auto constant = rows.repeated([&](int64_t c) { return -double(a[c]) * sum_dv[c] / n; });
      const Type type = type_of(*to_x);
      const float* flow = floats(*dv) + k * rows.width;
      run_all(context, rows.chunks, rows.chunk_rows * rows.width, [&](int64_t chunk) {
        rows.of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
          const int64_t from = first * rows.width, stride = chain.branches * rows.width;
          kernels().input_gradient(
              {type, count, width, stride,
               at(static_cast<const void*>(chain.x[k].data()), type, from), flow + first * stride,
               at(to_x->data(), type, from), chain.floor(), a.data(), b.data(), constant.data(),
               parameters.mean.data()});
        });
      });
    }
    if (chain.shortcut.size() && !to_shortcut) {
      Tensor* summed;
      OP_REQUIRES_OK(context, d_shortcut.allocate(0, chain.shortcut[0].shape(), &summed));
      run_all(context, rows.chunks, rows.chunk_rows * rows.width, [&](int64_t chunk) {
        rows.of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
          kernels().sum_branches(floats(*dv) + first * chain.branches * rows.width,
                                 summed->flat<float>().data() + first * rows.width, count, width,
                                 chain.branches);
        });
      });
    }
  }

 private:
  enum Kind { kDv, kDvX, kSlope, kDy, kSigns, kKinds };

  static void reduce(OpKernelContext* context, const Chain& chain, const Rows& rows, int branch,
                     const Parameters& parameters, const Tensor& dy, const Tensor& d_signs,
                     Tensor* dv, Sums* sums) {
    const Type sign_type = type_of(d_signs);
    run_all(context, rows.chunks, rows.chunk_rows * rows.width * 3, [&](int64_t chunk) {
      rows.of_chunk(chunk, [&](int64_t first, int64_t count, int64_t width) {
        ChainRows r = parameters.of(chain, rows, branch, first, count, width);
        const int64_t from = first * r.y_stride + branch * rows.width;
        r.sign_type = sign_type;
        r.dy = floats(dy) + from;
        if (chain.sign() != kNoSign) r.d_sign = at(d_signs.data(), sign_type, from);
        r.dv = dv->flat<float>().data() + from;
        r.sum_dv = sums->of(chunk, kDv);
        r.sum_dv_x = sums->of(chunk, kDvX);
        r.sum_slope = sums->of(chunk, kSlope);
        r.sum_dy = sums->of(chunk, kDy);
        r.sum_sign = sums->of(chunk, kSigns);
        kernels().chain_backward(r);
      });
    });
  }

  const Chain settings_;
};

REGISTER_KERNEL_BUILDER(Name("CandleNormChain").Device(tensorflow::DEVICE_CPU), NormChainOp);
REGISTER_KERNEL_BUILDER(Name("CandleNormChainGrad").Device(tensorflow::DEVICE_CPU),
                        NormChainGradOp);

}  // namespace
}  // namespace candle
