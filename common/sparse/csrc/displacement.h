// What the operators that move points share beside their kernels.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "tensors.h"

namespace edgewise {

inline void require_sizes(int64_t heads, int64_t coords) {
  require(heads <= 64, "at most 64 heads are supported, got " + std::to_string(heads));
  require(coords <= 8, "at most 8 coordinates are supported, got " + std::to_string(coords));
}

// dW[h, c, c'] = sum_i grad_dx[i, c] moment[i, h, c'], one after another in double precision.
template <class T>
void grad_of_w_x(int64_t N, int64_t H, int64_t C, const T* grad_dx, const T* moment, T* dw) {
  std::vector<double> sum(H * C * C);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t n = 0; n < C * C; ++n)
        sum[h * C * C + n] +=
            double(grad_dx[i * C + n / C]) * double(moment[(i * H + h) * C + n % C]);
  std::copy(sum.begin(), sum.end(), dw);
}

}  // namespace edgewise
