// Rows in parallel, balanced by their number of edges.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace edgewise {

using torch::stable::parallel_for;

// Calls f(begin, end) over row ranges of about equal work; `ptr` (rows + 1) is the row pointer.
// Which thread takes a row never changes what is written for it.
template <class F>
void parallel_rows(const int64_t* ptr, int64_t rows, const F& f) {
  if (rows == 0) return;
  // A row costs its edges and a constant, so that many empty rows are shared out too.
  const int64_t work = ptr[rows] + 4 * rows;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = std::clamp<int64_t>(work / 2048, 1, 16 * threads);
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
  parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const int64_t begin = boundary(part), end = boundary(part + 1);
      if (begin < end) f(begin, end);
    }
  });
}

}  // namespace edgewise
