// Work on a map in chunks of rows, on TensorFlow's own threads.
//
// What the chunks are depends on the map's size alone. Sums are made for each chunk and then added
// in the order of the chunks: they are the same to the last bit with any number of threads.

#ifndef CANDLE_TF_NATIVE_WORK_H_
#define CANDLE_TF_NATIVE_WORK_H_

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/denormal.h"
#include "tensorflow/core/util/work_sharder.h"

namespace candle {

inline Type type_of(const tensorflow::Tensor& tensor) {
  return tensor.dtype() == tensorflow::DT_FLOAT ? kFloat : kBfloat16;
}

// Bytes of a value.
inline int64_t size_of(const tensorflow::Tensor& tensor) {
  return type_of(tensor) == kFloat ? 4 : 2;
}

inline int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
inline int64_t parts(int64_t value, int64_t size) { return (value + size - 1) / size; }

struct Freed {
  void operator()(void* memory) const { std::free(memory); }
};

// Memory whose values are not set, in whole lines of a cache.
template <typename T>
std::unique_ptr<T[], Freed> room(int64_t count) {
  const int64_t bytes = rounded_up(std::max<int64_t>(count, 1) * sizeof(T), 64);
  void* memory = std::aligned_alloc(64, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return std::unique_ptr<T[], Freed>(static_cast<T*>(memory));
}

// Calls work(0) ... work(count - 1), in any order and side by side.
template <typename Work>
void run_all(tensorflow::OpKernelContext* context, int64_t count, int64_t cost, Work work) {
  const auto& threads = *context->device()->tensorflow_cpu_worker_threads();
  tensorflow::Shard(threads.num_threads, threads.workers, count, cost,
                    [&work](int64_t begin, int64_t end) {
                      // Some of TensorFlow's threads flush denormals and some do not.
                      tensorflow::port::ScopedFlushDenormal flush;
                      for (int64_t i = begin; i < end; ++i) work(i);
                    });
}

// A map [pixels, channels] as rows of `width` values, and the rows in chunks.
struct Rows {
  // What a row should hold at least, so that loops are long; and what a chunk should.
  static constexpr int64_t kWidth = 256;
  static constexpr int64_t kChunkValues = 1 << 14;
  // Sums of a chunk are in float32: no more values than this are added one after the other.
  static constexpr int64_t kChunkRows = 512;

  int64_t pixels, channels;
  int64_t repeats;     // pixels in a row
  int64_t width;       // values in a row: repeats * channels
  int64_t count;       // rows; the last one may be shorter
  int64_t chunk_rows, chunks;

  // With `join` a row may be several pixels.
  Rows(int64_t pixels, int64_t channels, bool join) : pixels(pixels), channels(channels) {
    repeats = 1;
    if (join && channels < kWidth) {
      // Whole vectors of 16, if that is possible.
      const int64_t whole = 16 / std::gcd<int64_t>(16, channels);
      repeats = std::max<int64_t>(whole, kWidth / channels / whole * whole);
      repeats = std::max<int64_t>(1, std::min(repeats, pixels));
    }
    width = repeats * channels;
    count = (pixels + repeats - 1) / repeats;
    chunk_rows = std::max<int64_t>(1, std::min(kChunkRows, (count + 31) / 32));
    chunk_rows = std::max(chunk_rows, std::min(kChunkRows, kChunkValues / width));
    chunk_rows = (chunk_rows + 3) / 4 * 4;
    chunks = (count + chunk_rows - 1) / chunk_rows;
  }

  // Calls piece(first row, rows, width) for the rows of a chunk: for whole ones, and for a
  // shorter last one.
  template <typename Piece>
  void of_chunk(int64_t chunk, Piece piece) const {
    const int64_t begin = chunk * chunk_rows;
    const int64_t end = std::min(count, begin + chunk_rows);
    const int64_t whole = std::min(end, pixels / repeats);
    if (whole > begin) piece(begin, whole - begin, width);
    if (whole < end) piece(whole, 1, pixels * channels - whole * width);
  }

  // A value per channel, repeated along the row.
  template <typename Value>
  std::vector<float> repeated(Value value) const {
    std::vector<float> row(width);
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float each = value(channel);
      for (int64_t r = 0; r < repeats; ++r) row[r * channels + channel] = each;
    }
    return row;
  }
};

// `kinds` sums of each column of each chunk, in float32, and their totals of each channel.
class Sums {
 public:
  Sums(const Rows& rows, int kinds)
      : rows_(rows), kinds_(kinds), values_(rows.chunks * kinds * rows.width, 0.0f) {}

  float* of(int64_t chunk, int kind) {
    return values_.data() + (chunk * kinds_ + kind) * rows_.width;
  }

  std::vector<double> total(int kind) const {
    std::vector<double> sums(rows_.channels, 0.0);
    for (int64_t chunk = 0; chunk < rows_.chunks; ++chunk) {
      const float* from = values_.data() + (chunk * kinds_ + kind) * rows_.width;
      for (int64_t r = 0; r < rows_.repeats; ++r) {
        for (int64_t c = 0; c < rows_.channels; ++c) sums[c] += from[r * rows_.channels + c];
      }
    }
    return sums;
  }

 private:
  const Rows& rows_;
  const int kinds_;
  std::vector<float> values_;
};

}  // namespace candle

#endif  // CANDLE_TF_NATIVE_WORK_H_
