// Rows in parallel, balanced by their number of edges.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>

// Run the body with T the floating type of `value` and I the index type of `index`.
#define EDGEWISE_DISPATCH(value, index, name, ...)                       \
  AT_DISPATCH_FLOATING_TYPES((value).scalar_type(), name, [&] {          \
    using T = scalar_t;                                                  \
    AT_DISPATCH_INDEX_TYPES((index).scalar_type(), name, [&] {           \
      using I = index_t;                                                 \
      __VA_ARGS__                                                        \
    });                                                                  \
  })

namespace edgewise {

// Calls f(begin, end) over row ranges of about equal work; `ptr` (rows + 1) is the row pointer.
// Which thread takes a row never changes what is written for it.
template <class F>
void parallel_rows(const int64_t* ptr, int64_t rows, const F& f) {
  if (rows == 0) return;
  // A row costs its edges and a constant, so that many empty rows are shared out too.
  const int64_t work = ptr[rows] + 4 * rows;
  const int64_t parts = std::clamp<int64_t>(work / 2048, 1, 16 * at::get_num_threads());
  auto boundary = [&](int64_t part) {
    const int64_t target = work * part / parts;
    int64_t low = 0, high = rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (ptr[middle] + 4 * middle < target) low = middle + 1;
      else high = middle;
    }
    return part == parts ? rows : low;
  };
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const int64_t begin = boundary(part), end = boundary(part + 1);
      if (begin < end) f(begin, end);
    }
  });
}

// Widen the last axis with zeros to a multiple of `multiple`; the tensor itself if it fits.
inline at::Tensor pad_last(const at::Tensor& t, int64_t multiple) {
  const int64_t width = t.size(-1), extra = (multiple - width % multiple) % multiple;
  return extra ? at::constant_pad_nd(t, {0, extra}).contiguous() : t.contiguous();
}

template <class T>
const T* pointer(const std::optional<at::Tensor>& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

}  // namespace edgewise
