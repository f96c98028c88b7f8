// Serial kernels over ranges of rows or edges, compiled once per instruction set and chosen at run
// time.  T is the floating type, I that of node and edge indices; row pointers are int64.  Arrays are
// contiguous; "padded" widths are multiples of kPad so that no loop has a tail.
// Formulas: common/sparse/reference.py.
#pragma once

#include <cstdint>

namespace edgewise {

constexpr int64_t kPad = 16;  // elements; a multiple of every vector width
constexpr int64_t kTile = 192;  // edges handled together by the gate kernels

// Rows of a graph's sources lie anywhere in memory, where no hardware foresees them.  Those of
// tables beyond the second-level cache are asked for so many rows before they are read; kNever, more
// than any tile has, asks for none, which is 2 % faster where the cache holds them.
constexpr int64_t kAhead = 8, kNever = 256;
constexpr int64_t kCacheBytes = int64_t{4} << 20;
inline int64_t rows_ahead(int64_t bytes) { return bytes > kCacheBytes ? kAhead : kNever; }

// With `rows` the edge list is one of places instead of nodes, and so are all arrays but those of
// which only a node's own row is read or written: out, dx, lse, moment, grad_dx, dq, dk and dv.
template <class T, class I>
struct AttentionArgs {
  int64_t heads, dim, coords;  // H, padded D, C
  int64_t ahead;  // rows_ahead of the bytes of q, k or v
  T scale, beta;
  const int64_t *rows;  // (N) node at each place, or null
  const I *src;  // (E)
  const int64_t *ptr;  // (N + 1)
  const T *q, *k, *v;  // (N, H, D)
  const T *x;  // (N, C)
  const T *w_x;  // (H, C, C)
  const T *gate;  // (E) or null
  const T *bias;  // (E, H) or null
  T *out;  // (N, H, D)
  T *dx;  // (N, C)
  T *lse;  // (N, H) log of the softmax sum; +inf for a row without weight
  T *moment;  // (N, H, C) sum_e a_eh (x_j - x_i)

  int64_t node(int64_t place) const { return rows ? rows[place] : place; }
};

template <class T, class I>
struct AttentionGradArgs {
  AttentionArgs<T, I> fwd;  // out, lse and moment are read here
  int64_t edges;  // E
  const I *dst, *rev_edge;  // (E)
  const int64_t *rev_ptr;  // (N + 1)
  const T *grad_out;  // (N, H, D)
  const T *grad_dx;  // (N, C)
  // (N, H, 2 + C) workspace by place: log-sum-exp, sum_e a_eh da_eh and W_h^T grad_dx_i
  T *state;
  T *dq, *dk, *dv;
  T *dgate;  // (E) or null
  T *dbias;  // (E, H) or null
  T *dx;  // (N, C)
};

// Attention without states: logits are beta gate_e + bias_eh - gamma_h |x_j - x_i|^2.
template <class T, class I>
struct PointArgs {
  int64_t heads, coords;  // H, C
  T beta;
  const I *src;  // (E)
  const int64_t *ptr;  // (N + 1)
  const T *x;  // (N, C)
  const T *w_x;  // (H, C, C)
  const T *gate;  // (E) or null
  const T *bias;  // (E, H) or null
  const T *gamma;  // (H) or null
  T *dx;  // (N, C)
  T *lse, *moment;  // as in AttentionArgs
};

template <class T, class I>
struct PointGradArgs {
  PointArgs<T, I> fwd;  // lse and moment are read here
  const T *grad_dx;  // (N, C)
  T *pull;  // (E, C) gradient of x_j - x_i
  T *dgate;  // (E) or null
  T *dbias;  // (E, H) or null
  T *dgamma;  // (N, H) part of each row, or null
  T *dx;  // (N, C) part of the destinations, minus the sum of pull
};

template <class T, class I>
struct GateArgs {
  int64_t features, hidden;  // padded F and M
  const I *src, *dst;  // (E)
  const T *h;  // (N, F)
  const T *at_dst, *at_src;  // (N, M) node parts of the first layer, the first with its bias
  const T *w_in;  // (2F, M) first layer on |h_i - h_j| and h_i * h_j, input-major
  const T *w_mid;  // (M, M) second layer, input-major
  const T *b_mid, *w_out;  // (M)
  T b_out;
  T *gate;  // (E)
};

template <class T, class I>
struct GateGradArgs {
  GateArgs<T, I> fwd;
  const T *w_in_t;  // (M, 2F)
  const T *w_mid_t;  // (M, M)
  const T *grad;  // (E)
  int64_t first_edge;  // edge that row 0 of dz and dh_src belongs to
  T *dz;  // (block, M) gradient of the first pre-activation
  T *dh_src;  // (block, F) gradient of h_j by edge, or null when h needs none
  T *dh;  // (N, F) destination part, added to; null like dh_src
  T *dat_dst;  // (N, M), added to
  T *dw_in, *dw_mid, *db_mid, *dw_out, *db_out;  // added to, in the layouts above
};

template <class T>
struct PerceptronArgs {
  int64_t features, hidden, outputs;  // F, M, H
  const T *x;  // (rows, F)
  const T *w1, *b1;  // (M, F), (M)
  const T *w2;  // (H, M)
  T *out;  // (rows, H)
};

template <class T>
struct PerceptronGradArgs {
  PerceptronArgs<T> fwd;
  const T *grad;  // (rows, H)
  T *dx;  // (rows, F), or null when x needs none
  T *dw1, *db1, *dw2;  // added to
};

template <class T, class I>
struct Kernels {
  // Rows [begin, end), or places, are destinations, for attention_grad_src sources.
  void (*attention)(const AttentionArgs<T, I>&, int64_t begin, int64_t end);
  void (*attention_grad_dst)(const AttentionGradArgs<T, I>&, int64_t begin, int64_t end);
  void (*attention_grad_src)(const AttentionGradArgs<T, I>&, int64_t begin, int64_t end);
  void (*points)(const PointArgs<T, I>&, int64_t begin, int64_t end);
  void (*points_grad)(const PointGradArgs<T, I>&, int64_t begin, int64_t end);
  // out[r] += sum over p in ptr[r]..ptr[r+1] of values[perm[p]], rows of `width`.
  void (*add_edges)(
      const int64_t* ptr, const I* perm, const T* values, T* out, int64_t width, int64_t begin,
      int64_t end);
  // Rows [begin, end); `scratch` has perceptron_scratch(...) elements.
  void (*perceptron)(const PerceptronArgs<T>&, int64_t begin, int64_t end, T* scratch);
  void (*perceptron_grad)(const PerceptronGradArgs<T>&, int64_t begin, int64_t end, T* scratch);
  // Edges [begin, end); `scratch` has gate_scratch(...) elements.
  void (*gate)(const GateArgs<T, I>&, int64_t begin, int64_t end, T* scratch);
  void (*gate_grad)(const GateGradArgs<T, I>&, int64_t begin, int64_t end, T* scratch);
  // out[r] = sum over p in ptr[r]..ptr[r+1] of weight[e] dense[col[e]], e = perm[p], or p if null.
  void (*gather_sum)(
      const int64_t* ptr, const I* perm, const I* col, const T* weight, const T* dense,
      T* out, int64_t width, int64_t begin, int64_t end);
  // out[e] = a[row[e]] . b[col[e]]
  void (*gather_dot)(
      const I* row, const I* col, const T* a, const T* b, T* out, int64_t width,
      int64_t begin, int64_t end);
  // out[row[e] - ...] += values[e - first] for edges whose row lies in [row_begin, row_end).
  void (*scatter_add)(
      const I* row, int64_t first, int64_t last, const T* values, T* out, int64_t width,
      int64_t row_begin, int64_t row_end);
  // Log-softmax of (E, H) within each row, and its gradient.
  void (*log_softmax)(
      const int64_t* ptr, const T* logits, T* out, int64_t heads, int64_t begin, int64_t end);
  void (*log_softmax_grad)(
      const int64_t* ptr, const T* out, const T* grad, T* dlogits, int64_t heads, int64_t begin,
      int64_t end);
};

inline int64_t gate_scratch(int64_t features, int64_t hidden) {
  return kTile * (4 * features + 4 * hidden);
}

inline int64_t perceptron_scratch(int64_t features, int64_t hidden, int64_t outputs) {
  return kTile * (features + 2 * hidden + outputs);
}

// The table for this processor; the variable EDGEWISE_CPU_CAPABILITY (default, avx2, avx512)
// lowers the choice, as ATEN_CPU_CAPABILITY does for PyTorch.
template <class T, class I>
const Kernels<T, I>& kernels();
const char* cpu_capability();
// Threads that a parallel loop of this library runs on: torch.get_num_threads() if all is well.
int64_t threads_used();

#define EDGEWISE_DECLARE(ns)                       \
  namespace ns {                                   \
  extern const Kernels<float, int32_t> f32_i32;    \
  extern const Kernels<float, int64_t> f32_i64;    \
  extern const Kernels<double, int32_t> f64_i32;   \
  extern const Kernels<double, int64_t> f64_i64;   \
  }
EDGEWISE_DECLARE(baseline)
EDGEWISE_DECLARE(avx2)
EDGEWISE_DECLARE(avx512)
#undef EDGEWISE_DECLARE

}  // namespace edgewise
