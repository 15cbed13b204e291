// Which of the compiled loops this CPU runs, for whoever chooses between algorithms.
//
//   CandleInstructions   the names of the loops: "avx512_kernels", ...; "amx" where the CPU
//                        multiplies matrices of bfloat16 in one instruction

#include "binary_conv.h"
#include "gemm.h"
#include "kernels.h"
#include "lookup.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace candle {
namespace {

bool has_amx() {
#if defined(__x86_64__)
  unsigned int a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
#else
  return false;
#endif
}

REGISTER_OP("CandleInstructions")
    .Output("loops: string")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      c->set_output(0, c->Vector(5));
      return absl::OkStatus();
    });

class InstructionsOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    tensorflow::Tensor* loops;
    OP_REQUIRES_OK(context, context->allocate_output(0, tensorflow::TensorShape({5}), &loops));
    auto names = loops->flat<tensorflow::tstring>();
    names(0) = kernels().name;
    names(1) = binary_kernels().name;
    names(2) = gemm_kernels().name;
    names(3) = lookup_kernels().name;
    names(4) = has_amx() ? "amx" : "";
  }
};

REGISTER_KERNEL_BUILDER(Name("CandleInstructions").Device(tensorflow::DEVICE_CPU), InstructionsOp);

}  // namespace
}  // namespace candle
