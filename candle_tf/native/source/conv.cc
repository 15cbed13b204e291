// Convolutions of real values and their gradients, as products of matrices whose operands are packed
// straight from the maps.
//
//   CandleConv             y, for kernels that are no signs
//   CandleConvInputGrad    the gradient of x, from dy and the kernel
//   CandleConvKernelGrad   the gradient of the kernel, from x and dy
//
// All are "SAME" convolutions padded with one value. Output and gradient of x gather for each pixel
// the pixels that it is a sum over, under all of the kernel's taps that reach it; pixels with the
// same taps are computed together, so that nothing is multiplied with padding that is 0.

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "gemm.h"
#include "kernels.h"
#include "sides.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace candle {
namespace conv {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

REGISTER_OP("CandleConv")
    .Input("x: T")
    .Input("kernel: T")
    .Output("y: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .Attr("pad_value: float = 0.0")
    .SetShapeFn(same_output_shape);

REGISTER_OP("CandleConvInputGrad")
    .Input("dy: T")
    .Input("kernel: T")
    .Input("x: T")
    .Output("dx: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .SetShapeFn(shape_of_third);

REGISTER_OP("CandleConvKernelGrad")
    .Input("x: T")
    .Input("dy: T")
    .Input("kernel: T")
    .Output("d_kernel: T")
    .Attr("T: {float, bfloat16}")
    .Attr("stride: int >= 1")
    .Attr("pad_value: float = 0.0")
    .SetShapeFn(shape_of_third);

// Rows of a left operand that are packed at a time, a multiple of every tile's rows.
constexpr int64_t kBlockRows = 48;
// Units that are summed over before the next ones are packed.
constexpr int64_t kBlockUnits = 128;
// Output pixels of an image up to which the gradient of a kernel leaves padding out.
constexpr int64_t kFewPixels = 16;

// A map [N, H, W, C] or a kernel, in the type that is multiplied.
struct Values {
  const char* data;
  Type type;
  int64_t size;        // bytes of a value
  Tensor widened;

  // bfloat16 becomes float32 where the CPU has no products of it.
  static absl::Status read(OpKernelContext* context, const Tensor& from, Values* to) {
    to->type = type_of(from);
    to->data = static_cast<const char*>(from.data());
    if (to->type == kBfloat16 && !gemm_kernels().pairs) {
      TF_RETURN_IF_ERROR(
          context->allocate_temp(tensorflow::DT_FLOAT, from.shape(), &to->widened));
      const uint16_t* values = static_cast<const uint16_t*>(from.data());
      uint32_t* wide = static_cast<uint32_t*>(to->widened.data());
      constexpr int64_t kPiece = 1 << 15;
      const int64_t count = from.NumElements();
      run_all(context, parts(count, kPiece), kPiece, [&](int64_t piece) {
        const int64_t end = std::min(count, (piece + 1) * kPiece);
        for (int64_t i = piece * kPiece; i < end; ++i) wide[i] = uint32_t(values[i]) << 16;
      });
      to->type = kFloat;
      to->data = static_cast<const char*>(to->widened.data());
    }
    to->size = to->type == kFloat ? 4 : 2;
    return absl::OkStatus();
  }

  int64_t pair() const { return type == kFloat ? 1 : 2; }
  const char* at(int64_t index) const { return data + index * size; }
  // One value for each channel.
  std::vector<char> filled(int64_t channels, float value) const {
    std::vector<char> row(std::max<int64_t>(channels * size, 1));
    const std::vector<float> wide(channels, value);
    if (type == kFloat) {
      std::memcpy(row.data(), wide.data(), channels * size);
    } else {
      kernels().to_bfloat16(wide.data(), reinterpret_cast<uint16_t*>(row.data()), channels);
    }
    return row;
  }
};

// Writes float32 as an output has it.
inline void write(const float* from, Tensor* to, int64_t index, int64_t count) {
  if (type_of(*to) == kFloat) {
    std::memcpy(static_cast<float*>(to->data()) + index, from, count * sizeof(float));
  } else {
    kernels().to_bfloat16(from, static_cast<uint16_t*>(to->data()) + index, count);
  }
}

// Pixels along one side that are reached by the same taps, and from where.
struct Reached {
  std::vector<int64_t> taps, targets;
  std::vector<int64_t> sources;   // [targets, taps]; -1 for padding
};

template <typename Reach>
std::vector<Reached> grouped(int64_t targets, Reach reach) {
  std::map<std::vector<int64_t>, Reached> groups;
  for (int64_t target = 0; target < targets; ++target) {
    std::vector<int64_t> taps, sources;
    reach(target, &taps, &sources);
    Reached& group = groups[taps];
    group.taps = taps;
    group.targets.push_back(target);
    group.sources.insert(group.sources.end(), sources.begin(), sources.end());
  }
  std::vector<Reached> all;
  for (auto& [taps, group] : groups) all.push_back(std::move(group));
  return all;
}

// Inputs under each output; with `padded` those outside too.
std::vector<Reached> inputs_of(const Side& side, bool padded) {
  return grouped(side.output, [&](int64_t target, auto* taps, auto* sources) {
    for (int64_t tap = 0; tap < side.window; ++tap) {
      const int64_t source = target * side.stride - side.before + tap;
      const bool inside = source >= 0 && source < side.input;
      if (!inside && !padded) continue;
      taps->push_back(tap);
      sources->push_back(inside ? source : -1);
    }
  });
}

// Outputs that each input is part of.
std::vector<Reached> outputs_of(const Side& side) {
  return grouped(side.input, [&](int64_t target, auto* taps, auto* sources) {
    for (int64_t tap = 0; tap < side.window; ++tap) {
      const int64_t from = target + side.before - tap;
      if (from < 0 || from % side.stride || from / side.stride >= side.output) continue;
      taps->push_back(tap);
      sources->push_back(from / side.stride);
    }
  });
}

// Right panels of a kernel: [taps, panels, units, columns].
struct RightPanels {
  int64_t units, panels, columns;
  const uint32_t* data;

  const uint32_t* of(int64_t tap, int64_t panel, int64_t unit) const {
    return data + ((tap * panels + panel) * units + unit) * columns;
  }
};

// target [N, targets, width] = sum over taps of source [N, sources, depth] times a tap's panels.
struct Gathering {
  const Values& from;
  const char* outside;
  int64_t images, source_rows, source_columns, depth;
  const std::vector<Reached>&down, &across;
  int64_t window;            // taps across
  const RightPanels& right;
  Tensor* to;
  int64_t target_rows, target_columns, width;
};

// Where the units of one tap lie in a left panel that is kept row by row.
struct Place {
  int64_t panel, offset, units, tap, unit, down, across;
};

std::vector<Place> places_of(int64_t down, int64_t across, int64_t units) {
  std::vector<Place> places;
  const int64_t beside = std::max<int64_t>(1, kRowUnits / units), each = parts(units, kRowUnits);
  for (int64_t tap = 0; tap < down * across; ++tap) {
    for (int64_t k = 0; k < each; ++k) {
      const int64_t first = k * kRowUnits;
      places.push_back({each > 1 ? tap * each + k : tap / beside,
                        each > 1 ? 0 : tap % beside * units,
                        std::min(kRowUnits, units - first), tap, first, tap / across, tap % across});
    }
  }
  return places;
}

class GatheringTask {
 public:
  GatheringTask(const Gathering& g, const Reached& down, const Reached& across)
      : g_(g), down_(down), across_(across),
        taps_(down.taps.size() * across.taps.size()), places_(places_of(down.taps.size(), across.taps.size(), g.right.units)) {}

  int64_t rows() const { return g_.images * down_.targets.size() * across_.targets.size(); }
  int64_t cost() const { return kBlockRows * taps_ * g_.depth * g_.width / 16; }

  void run(int64_t block) const {
    const GemmKernels& gemm = gemm_kernels();
    const int64_t first = block * kBlockRows, count = std::min(kBlockRows, rows() - first);
    const int64_t left_panels = places_.empty() ? 0 : places_.back().panel + 1;
    const int64_t panel_size = gemm.rows * kRowStep;
    const auto left = room<uint32_t>(kBlockRows / gemm.rows * left_panels * panel_size);
    std::vector<int64_t> targets(count);
    for (int64_t r = 0; r < count; ++r) {
      uint32_t* row = left.get() + r / gemm.rows * left_panels * panel_size + r % gemm.rows * kRowStep;
      targets[r] = pack(first + r, row, panel_size);
    }
    const auto sums = room<float>(kBlockRows * gemm.columns);
    std::fill(sums.get(), sums.get() + kBlockRows * gemm.columns, 0.0f);
    std::vector<Segment> segments(places_.size());
    for (int64_t panel = 0; panel < g_.right.panels; ++panel) {
      const int64_t column = panel * gemm.columns;
      const int64_t width = std::min<int64_t>(gemm.columns, g_.width - column);
      // What is in one row of the left panels, for all of them: its right panels stay in the cache.
      for (size_t begin = 0, end; begin < places_.size(); begin = end) {
        for (end = begin; end < places_.size() && places_[end].panel == places_[begin].panel;) ++end;
        for (int64_t r = 0; r < count; r += gemm.rows) {
          const uint32_t* from = left.get() + r / gemm.rows * left_panels * panel_size;
          for (size_t i = begin; i < end; ++i) {
            const Place& p = places_[i];
            segments[i] = {from + p.panel * panel_size + p.offset,
                           g_.right.of(tap(p.tap), panel, p.unit), p.units};
          }
          gemm.multiply(g_.from.type, segments.data() + begin, end - begin, 0,
                        sums.get() + r * gemm.columns, gemm.columns, begin > 0);
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        write(sums.get() + r * gemm.columns, g_.to, targets[r] * g_.width + column, width);
      }
    }
  }

 private:
  // The tap's number in the kernel.
  int64_t tap(int64_t index) const {
    const int64_t columns = across_.taps.size();
    return down_.taps[index / columns] * g_.window + across_.taps[index % columns];
  }

  // Copies the pixels that a target is a sum over; returns the target's index.
  int64_t pack(int64_t row, uint32_t* to, int64_t panel_size) const {
    const int64_t wide = across_.targets.size(), high = down_.targets.size();
    const int64_t column = row % wide, line = row / wide % high, image = row / wide / high;
    const int64_t columns = across_.taps.size(), lines = down_.taps.size();
    const int64_t pair = g_.from.pair();
    for (const Place& p : places_) {
      const int64_t h = down_.sources[line * lines + p.down];
      const int64_t w = across_.sources[column * columns + p.across];
      const char* from =
          h < 0 || w < 0
              ? g_.outside
              : g_.from.at(((image * g_.source_rows + h) * g_.source_columns + w) * g_.depth);
      const int64_t values = std::min(p.units * pair, g_.depth - p.unit * pair);
      char* out = reinterpret_cast<char*>(to + p.panel * panel_size + p.offset);
      std::memcpy(out, from + p.unit * 4, values * g_.from.size);
      // Half of a unit is 0, whatever was there.
      if (values < p.units * pair) std::memset(out + values * g_.from.size, 0, g_.from.size);
    }
    return (image * g_.target_rows + down_.targets[line]) * g_.target_columns +
           across_.targets[column];
  }

  const Gathering& g_;
  const Reached &down_, &across_;
  const int64_t taps_;
  const std::vector<Place> places_;
};

void gather(OpKernelContext* context, const Gathering& g) {
  std::vector<GatheringTask> tasks;
  std::vector<std::pair<int64_t, int64_t>> blocks;
  int64_t cost = 1;
  for (const Reached& down : g.down) {
    for (const Reached& across : g.across) {
      tasks.emplace_back(g, down, across);
      cost = std::max(cost, tasks.back().cost());
      for (int64_t block = 0; block * kBlockRows < tasks.back().rows(); ++block) {
        blocks.emplace_back(tasks.size() - 1, block);
      }
    }
  }
  run_all(context, blocks.size(), cost,
          [&](int64_t i) { tasks[blocks[i].first].run(blocks[i].second); });
}

absl::Status packed_room(OpKernelContext* context, int64_t words, Tensor* tensor) {
  return context->allocate_temp(tensorflow::DT_INT32, TensorShape({words}), tensor);
}

// Panels of a kernel [taps, C, F]: of C columns and sums over F, or of F columns and sums over C.
absl::Status pack_kernel(OpKernelContext* context, const Values& kernel, int64_t taps,
                         int64_t channels, int64_t filters, bool over_filters, Tensor* memory,
                         RightPanels* panels) {
  const GemmKernels& gemm = gemm_kernels();
  const int64_t depth = over_filters ? filters : channels, width = over_filters ? channels : filters;
  const int64_t pair = kernel.pair(), units = parts(depth, pair);
  *panels = {units, parts(width, gemm.columns), gemm.columns, nullptr};
  TF_RETURN_IF_ERROR(
      packed_room(context, taps * panels->panels * units * gemm.columns, memory));
  uint32_t* data = static_cast<uint32_t*>(memory->data());
  panels->data = data;
  const std::vector<char> zeros = kernel.filled(filters, 0.0f);
  run_all(context, taps * panels->panels, units * gemm.columns * 2, [&](int64_t i) {
    const int64_t tap = i / panels->panels, column = i % panels->panels * gemm.columns;
    const int64_t some = std::min<int64_t>(gemm.columns, width - column);
    uint32_t* to = data + i * units * gemm.columns;
    if (over_filters) {
      gemm.transpose(kernel.type, kernel.at((tap * channels + column) * filters), some, filters,
                     gemm.columns, to);
      return;
    }
    std::vector<const void*> rows(units * pair, zeros.data());
    for (int64_t c = 0; c < channels; ++c) {
      rows[c] = kernel.at((tap * channels + c) * filters + column);
    }
    gemm.interleave(kernel.type, rows.data(), units, some, gemm.columns, to);
  });
  return absl::OkStatus();
}

// What the three operators have in common.
class ConvOp : public OpKernel {
 public:
  explicit ConvOp(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("stride", &stride_));
  }

 protected:
  static absl::Status check(const Tensor& x, const Tensor& kernel) {
    if (x.dims() != 4 || kernel.dims() != 4 || kernel.dim_size(2) != x.dim_size(3)) {
      return InvalidArgument("a map [N, H, W, C] takes a kernel [k, k, C, C']");
    }
    if (kernel.NumElements() == 0) return InvalidArgument("the kernel is empty");
    return absl::OkStatus();
  }

  absl::Status check(const Tensor& x, const Tensor& kernel, const Tensor& dy) const {
    TF_RETURN_IF_ERROR(check(x, kernel));
    const Side rows(x.dim_size(1), kernel.dim_size(0), stride_);
    const Side columns(x.dim_size(2), kernel.dim_size(1), stride_);
    if (dy.shape() !=
        TensorShape({x.dim_size(0), rows.output, columns.output, kernel.dim_size(3)})) {
      return InvalidArgument("the gradient has not the output's shape");
    }
    return absl::OkStatus();
  }

  int64_t stride_;
};

class ForwardOp : public ConvOp {
 public:
  explicit ForwardOp(OpKernelConstruction* c) : ConvOp(c) {
    OP_REQUIRES_OK(c, c->GetAttr("pad_value", &pad_value_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &kernel = context->input(1);
    OP_REQUIRES_OK(context, check(x, kernel));
    const Side rows(x.dim_size(1), kernel.dim_size(0), stride_);
    const Side columns(x.dim_size(2), kernel.dim_size(1), stride_);
    const int64_t channels = x.dim_size(3), filters = kernel.dim_size(3);
    Tensor *y, memory;
    const TensorShape shape({x.dim_size(0), rows.output, columns.output, filters});
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &y));
    if (y->NumElements() == 0) return;
    Values from, weights;
    RightPanels right;
    OP_REQUIRES_OK(context, Values::read(context, x, &from));
    OP_REQUIRES_OK(context, Values::read(context, kernel, &weights));
    OP_REQUIRES_OK(context, pack_kernel(context, weights, rows.window * columns.window, channels,
                                        filters, false, &memory, &right));
    const std::vector<char> outside = from.filled(channels, pad_value_);
    const auto down = inputs_of(rows, pad_value_ != 0), across = inputs_of(columns, pad_value_ != 0);
    gather(context, {from, outside.data(), x.dim_size(0), rows.input, columns.input, channels, down,
                     across, columns.window, right, y, rows.output, columns.output, filters});
  }

 private:
  float pad_value_;
};

class InputGradOp : public ConvOp {
 public:
  using ConvOp::ConvOp;

  void Compute(OpKernelContext* context) override {
    const Tensor &dy = context->input(0), &kernel = context->input(1), &x = context->input(2);
    OP_REQUIRES_OK(context, check(x, kernel, dy));
    Tensor *dx, memory;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &dx));
    if (dx->NumElements() == 0) return;
    Values from, weights;
    OP_REQUIRES_OK(context, Values::read(context, dy, &from));
    OP_REQUIRES_OK(context, Values::read(context, kernel, &weights));
    const Side rows(x.dim_size(1), kernel.dim_size(0), stride_);
    const Side columns(x.dim_size(2), kernel.dim_size(1), stride_);
    const int64_t channels = x.dim_size(3), filters = kernel.dim_size(3);
    RightPanels right;
    OP_REQUIRES_OK(context, pack_kernel(context, weights, rows.window * columns.window, channels,
                                        filters, true, &memory, &right));
    const auto down = outputs_of(rows), across = outputs_of(columns);
    gather(context, {from, nullptr, x.dim_size(0), rows.output, columns.output, filters, down, across,
                     columns.window, right, dx, rows.input, columns.input, channels});
  }

};

class KernelGradOp : public ConvOp {
 public:
  explicit KernelGradOp(OpKernelConstruction* c) : ConvOp(c) {
    OP_REQUIRES_OK(c, c->GetAttr("pad_value", &pad_value_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &x = context->input(0), &dy = context->input(1), &kernel = context->input(2);
    OP_REQUIRES_OK(context, check(x, kernel, dy));
    Tensor* d_kernel;
    OP_REQUIRES_OK(context, context->allocate_output(0, kernel.shape(), &d_kernel));
    Values from, flow;
    OP_REQUIRES_OK(context, Values::read(context, x, &from));
    OP_REQUIRES_OK(context, Values::read(context, dy, &flow));
    const Side rows(x.dim_size(1), kernel.dim_size(0), stride_);
    const Side columns(x.dim_size(2), kernel.dim_size(1), stride_);
    OP_REQUIRES_OK(context, sum(context, from, flow, rows, columns, x.dim_size(0), d_kernel));
  }

 private:
  // An output pixel and the input pixel that it is computed from by one tap; -1 for padding.
  struct Pairs {
    std::vector<int64_t> inputs, outputs;   // of one image
    std::vector<int64_t> left_out;          // outputs whose input is padding, where it is left out
  };

  Pairs pairs_of(const Side& rows, const Side& columns, int64_t tap, bool leave_out) const {
    Pairs pairs;
    for (int64_t output = 0; output < rows.output * columns.output; ++output) {
      const int64_t h =
          output / columns.output * stride_ - rows.before + tap / columns.window;
      const int64_t w =
          output % columns.output * stride_ - columns.before + tap % columns.window;
      const bool inside = h >= 0 && h < rows.input && w >= 0 && w < columns.input;
      if (!inside && leave_out) {
        pairs.left_out.push_back(output);
        continue;
      }
      pairs.inputs.push_back(inside ? h * columns.input + w : -1);
      pairs.outputs.push_back(output);
    }
    return pairs;
  }

  // How rows of the result are divided among tasks: an even number of like blocks.
  static int64_t block_rows(int64_t channels, int64_t most) {
    constexpr int64_t kTile = 16;
    const int64_t blocks = channels <= most ? 1 : rounded_up(parts(channels, most), 2);
    return std::min(most, rounded_up(parts(channels, blocks), kTile));
  }

  // For each tap, sums over pixels of x^T dy; `splits` tasks share the pixels of a large map.
  absl::Status sum(OpKernelContext* context, const Values& x, const Values& dy, const Side& rows,
                      const Side& columns, int64_t images, Tensor* d_kernel) const {
    const int64_t channels = d_kernel->dim_size(2), filters = d_kernel->dim_size(3);
    const int64_t taps = rows.window * columns.window;
    const int64_t outputs = rows.output * columns.output, inputs = rows.input * columns.input;
    const bool leave_out = outputs <= kFewPixels && taps > 1;
    std::vector<Pairs> pairs;
    for (int64_t tap = 0; tap < taps; ++tap) {
      pairs.push_back(pairs_of(rows, columns, tap, leave_out));
    }
    const int64_t high = block_rows(channels, 96), blocks = parts(channels, high);
    const int64_t splits = std::max<int64_t>(
        1, std::min(parts(16, taps * blocks), images * outputs / (16 * kBlockUnits)));
    Tensor partial;
    const int64_t size = taps * channels * filters;
    if (splits > 1) {
      TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT,
                                                TensorShape({splits, size}), &partial));
    }
    const std::vector<float> sums = leave_out && pad_value_ != 0
                                        ? sums_of_pixels(context, dy, images, outputs, filters)
                                        : std::vector<float>();
    const std::vector<char> outside = x.filled(channels, pad_value_);
    const std::vector<char> zeros = dy.filled(std::max(channels, filters), 0.0f);
    const int64_t cost = images * outputs / splits * high * filters / 16;
    run_all(context, taps * blocks * splits, cost, [&](int64_t task) {
      const int64_t split = task % splits, block = task / splits % blocks;
      const int64_t tap = task / splits / blocks, first = block * high;
      const int64_t count = std::min(high, channels - first);
      const Pairs& of_tap = pairs[tap];
      const int64_t all = images * of_tap.outputs.size();
      // Whole units for all but the last.
      const int64_t share = rounded_up(parts(all, splits), 2);
      const int64_t begin = std::min(all, split * share), end = std::min(all, begin + share);
      const int64_t y_step = rounded_up(filters, gemm_kernels().columns);
      const auto y = products(x, dy, of_tap, begin, end, inputs, outputs, channels, first, count,
                              filters, outside.data(), zeros.data());
      // Of all images, so one of the splits has it.
      if (split == 0 && !sums.empty()) {
        add_padding(of_tap, sums, filters, count, y_step, y.get());
      }
      for (int64_t c = 0; c < count; ++c) {
        const int64_t to = (tap * channels + first + c) * filters;
        if (splits == 1) {
          write(y.get() + c * y_step, d_kernel, to, filters);
        } else {
          std::memcpy(partial.flat<float>().data() + split * size + to, y.get() + c * y_step,
                      filters * sizeof(float));
        }
      }
    });
    if (splits > 1) {
      const float* from = partial.flat<float>().data();
      run_all(context, taps * channels, splits * filters, [&](int64_t row) {
        std::vector<float> total(from + row * filters, from + (row + 1) * filters);
        for (int64_t split = 1; split < splits; ++split) {
          const float* more = from + split * size + row * filters;
          for (int64_t f = 0; f < filters; ++f) total[f] += more[f];
        }
        write(total.data(), d_kernel, row * filters, filters);
      });
    }
    return absl::OkStatus();
  }

  // [count, filters] of some pairs, rows `gemm.columns` apart rounded up.
  static std::unique_ptr<float[], Freed> products(const Values& x, const Values& dy, const Pairs& pairs,
                                           int64_t begin, int64_t end, int64_t inputs,
                                           int64_t outputs, int64_t channels, int64_t first,
                                           int64_t count, int64_t filters, const char* outside,
                                           const char* zeros) {
    const GemmKernels& gemm = gemm_kernels();
    const int64_t pair = x.pair(), panels = parts(filters, gemm.columns);
    const int64_t y_step = panels * gemm.columns, high = rounded_up(count, gemm.rows);
    auto y = room<float>(high * y_step);
    const auto left = room<uint32_t>(kBlockUnits * high);
    const auto right = room<uint32_t>(panels * kBlockUnits * gemm.columns);
    const int64_t each = pairs.outputs.size();
    if (begin >= end) std::fill(y.get(), y.get() + high * y_step, 0.0f);
    std::vector<const void*> lefts(kBlockUnits * pair), rights(kBlockUnits * pair), some(rights);
    for (int64_t at = begin; at < end; at += kBlockUnits * pair) {
      const int64_t values = std::min(kBlockUnits * pair, end - at), units = parts(values, pair);
      int64_t image = at / each, pixel = at % each - 1;
      for (int64_t i = 0; i < units * pair; ++i) {
        if (++pixel == each) pixel = 0, ++image;
        const bool in = i < values;
        lefts[i] = !in ? zeros
                   : pairs.inputs[pixel] < 0
                       ? outside + first * x.size
                       : x.at((image * inputs + pairs.inputs[pixel]) * channels + first);
        rights[i] = in ? dy.at((image * outputs + pairs.outputs[pixel]) * filters) : zeros;
      }
      gemm.interleave(x.type, lefts.data(), units, count, high, left.get());
      for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t column = panel * gemm.columns;
        for (int64_t i = 0; i < units * pair; ++i) {
          some[i] = static_cast<const char*>(rights[i]) + column * dy.size;
        }
        uint32_t* to = right.get() + panel * kBlockUnits * gemm.columns;
        gemm.interleave(dy.type, some.data(), units,
                        std::min<int64_t>(gemm.columns, filters - column), gemm.columns, to);
        for (int64_t r = 0; r < high; r += gemm.rows) {
          const Segment segment = {left.get() + r, to, units};
          gemm.multiply(x.type, &segment, 1, high, y.get() + r * y_step + column, y_step,
                        at > begin);
        }
      }
    }
    return y;
  }

  // Sums of dy over the images, [outputs, filters].
  static std::vector<float> sums_of_pixels(OpKernelContext* context, const Values& dy,
                                           int64_t images, int64_t outputs, int64_t filters) {
    std::vector<float> sums(outputs * filters, 0.0f);
    run_all(context, outputs, images * filters, [&](int64_t output) {
      float* sum = sums.data() + output * filters;
      for (int64_t image = 0; image < images; ++image) {
        const char* row = dy.at((image * outputs + output) * filters);
        for (int64_t f = 0; f < filters; ++f) {
          uint32_t bits;
          if (dy.type == kFloat) {
            bits = reinterpret_cast<const uint32_t*>(row)[f];
          } else {
            bits = uint32_t(reinterpret_cast<const uint16_t*>(row)[f]) << 16;
          }
          float value;
          std::memcpy(&value, &bits, sizeof(value));
          sum[f] += value;
        }
      }
    });
    return sums;
  }

  // What padding adds to every channel.
  void add_padding(const Pairs& pairs, const std::vector<float>& sums, int64_t filters,
                   int64_t count, int64_t y_step, float* y) const {
    std::vector<float> constant(filters, 0.0f);
    for (int64_t output : pairs.left_out) {
      for (int64_t f = 0; f < filters; ++f) constant[f] += sums[output * filters + f];
    }
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t f = 0; f < filters; ++f) y[c * y_step + f] += pad_value_ * constant[f];
    }
  }

  float pad_value_;
};

REGISTER_KERNEL_BUILDER(Name("CandleConv").Device(tensorflow::DEVICE_CPU), ForwardOp);
REGISTER_KERNEL_BUILDER(Name("CandleConvInputGrad").Device(tensorflow::DEVICE_CPU), InputGradOp);
REGISTER_KERNEL_BUILDER(Name("CandleConvKernelGrad").Device(tensorflow::DEVICE_CPU), KernelGradOp);

}  // namespace conv
}  // namespace candle
