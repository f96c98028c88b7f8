// Tensors through the stable ABI of torch (2.10 and newer), and the choice of their types.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

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

// t[rows], contiguous; without rows just that.
Tensor gather_rows(const Tensor& t, const std::optional<Tensor>& rows);

// The types of the kernels: what torch calls them, and their codes in its C functions.
template <class T>
struct Type;
#define EDGEWISE_TYPE(T, name, code_of)                      \
  template <>                                                \
  struct Type<T> {                                           \
    static constexpr ScalarType scalar = ScalarType::name;   \
    static int32_t code() { return code_of(); }              \
  };
EDGEWISE_TYPE(float, Float, aoti_torch_dtype_float32)
EDGEWISE_TYPE(double, Double, aoti_torch_dtype_float64)
EDGEWISE_TYPE(int32_t, Int, aoti_torch_dtype_int32)
EDGEWISE_TYPE(int64_t, Long, aoti_torch_dtype_int64)
#undef EDGEWISE_TYPE

template <class T>
bool holds(const Tensor& t) {
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  return code == Type<T>::code();
}

template <class T>
void require_type(const Tensor& t) {
  if (holds<T>(t)) return;
  using torch::headeronly::toString;
  require(false, std::string("expected scalar type ") + toString(Type<T>::scalar) +
                     " but found " + toString(t.scalar_type()));
}

// As Tensor::const_data_ptr<T>() and mutable_data_ptr<T>(), which take ten times as many calls
// into torch to find out the type.
template <class T>
const T* data_of(const Tensor& t) {
  require_type<T>(t);
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data_of(const Tensor& t) {
  require_type<T>(t);
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
const T* data_of(const std::optional<Tensor>& t) {
  return t ? data_of<T>(*t) : nullptr;
}

[[noreturn]] inline void refuse_type(const Tensor& t, const char* name) {
  throw std::runtime_error('"' + std::string(name) + "\" not implemented for '" +
                           torch::headeronly::toString(t.scalar_type()) + "'");
}

// Calls f(T{}) with the floating type of `value`.
template <class F>
void with_float(const Tensor& value, const char* name, const F& f) {
  if (holds<float>(value)) return f(float{});
  if (holds<double>(value)) return f(double{});
  refuse_type(value, name);
}

// Calls f(T{}, I{}) with the floating type of `value` and the index type of `index`.
template <class F>
void with_types(const Tensor& value, const Tensor& index, const char* name, const F& f) {
  with_float(value, name, [&](auto t) {
    if (holds<int32_t>(index)) return f(t, int32_t{});
    if (holds<int64_t>(index)) return f(t, int64_t{});
    refuse_type(index, name);
  });
}

}  // namespace edgewise
