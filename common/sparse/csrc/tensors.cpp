// Allocation, and copies that change the width of the last axis.
#include "tensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace edgewise {

namespace {

constexpr size_t kAxes = 4;
constexpr int64_t kGrain = 32768;  // elements that a thread fills or copies at least

}  // namespace

Tensor empty(Sizes sizes, const Tensor& like) {
  require(sizes.size() <= kAxes, "at most 4 axes are supported");
  std::array<int64_t, kAxes> strides;
  int64_t stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<int64_t>(sizes[axis], 1);
  }
  int32_t dtype;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      sizes.size(), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0,
      &handle));
  return Tensor(handle);
}

Tensor zeros(std::initializer_list<int64_t> sizes, const Tensor& like) {
  Tensor t = empty(sizes, like);
  const int64_t bytes = t.element_size();
  char* data = static_cast<char*>(t.mutable_data_ptr());
  torch::stable::parallel_for(0, t.numel(), kGrain, [&](int64_t begin, int64_t end) {
    std::memset(data + begin * bytes, 0, (end - begin) * bytes);
  });
  return t;
}

Tensor resize_last(const Tensor& t_in, int64_t width) {
  const Tensor t = packed(t_in);
  const int64_t old_width = t.size(-1);
  if (old_width == width) return t;
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  sizes.back() = width;
  Tensor out = empty(Sizes(sizes.data(), sizes.size()), t);
  const int64_t bytes = t.element_size(), from_row = old_width * bytes, to_row = width * bytes;
  const int64_t kept = std::min(from_row, to_row), rows = out.numel() / width;
  const char* from = static_cast<const char*>(t.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, kGrain / width);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(to + row * to_row, from + row * from_row, kept);
      std::memset(to + row * to_row + kept, 0, to_row - kept);
    }
  });
  return out;
}

Tensor gather_rows(const Tensor& t_in, const std::optional<Tensor>& rows) {
  const Tensor t = packed(t_in);
  if (!rows || t.numel() == 0) return t;
  Tensor out = new_like(t);
  const int64_t width = t.numel() / t.size(0), bytes = width * t.element_size();
  const int64_t* row = data_of<int64_t>(*rows);
  const char* from = static_cast<const char*>(t.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, kGrain / width);
  torch::stable::parallel_for(0, t.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      std::memcpy(to + n * bytes, from + row[n] * bytes, bytes);
  });
  return out;
}

}  // namespace edgewise
