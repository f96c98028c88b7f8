// Tensors through the stable ABI of torch (2.10 and newer), and the choice of their types.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgewise {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// A std::runtime_error, RuntimeError in Python, whose text is just the message.
inline void require(bool holds, const std::string& message) {
  if (!holds) throw std::runtime_error(message);
}

// Contiguous, uninitialised, on CPU and of the dtype of `like`.  The C function costs a fraction of
// torch::stable::empty, which looks the operator up by its name in every call.
Tensor empty(Sizes sizes, const Tensor& like);
inline Tensor empty(std::initializer_list<int64_t> sizes, const Tensor& like) {
  return empty(Sizes(sizes.begin(), sizes.size()), like);
}
inline Tensor new_like(const Tensor& t) { return empty(t.sizes(), t); }
Tensor zeros(std::initializer_list<int64_t> sizes, const Tensor& like);

inline Tensor packed(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}
inline std::optional<Tensor> packed(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(packed(*t)) : std::nullopt;
}

// Contiguous, with the last axis cut to `width` or continued with zeros.
Tensor resize_last(const Tensor& t, int64_t width);
// The last axis continued to a multiple of `multiple`.
inline Tensor pad_last(const Tensor& t, int64_t multiple) {
  return resize_last(t, (t.size(-1) + multiple - 1) / multiple * multiple);
}

template <class T>
const T* pointer(const std::optional<Tensor>& t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

// Calls f(T{}) with the floating type of `value`.
template <class F>
void with_float(const Tensor& value, const char* name, const F& f) {
  const ScalarType type = value.scalar_type();
  if (type == ScalarType::Float) return f(float{});
  if (type == ScalarType::Double) return f(double{});
  require(false, '"' + std::string(name) + "\" not implemented for '" +
                     torch::headeronly::toString(type) + "'");
}

// Calls f(T{}, I{}) with the floating type of `value` and the index type of `index`.
template <class F>
void with_types(const Tensor& value, const Tensor& index, const char* name, const F& f) {
  with_float(value, name, [&](auto t) {
    const ScalarType type = index.scalar_type();
    if (type == ScalarType::Int) return f(t, int32_t{});
    if (type == ScalarType::Long) return f(t, int64_t{});
    require(false, '"' + std::string(name) + "\" not implemented for '" +
                       torch::headeronly::toString(type) + "'");
  });
}

}  // namespace edgewise
