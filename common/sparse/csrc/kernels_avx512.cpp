// Kernels for avx512; only plain C headers come before the target switch, so
// that no inline function shared with other files is compiled for it.
#include <cmath>
#include <cstdint>

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
#endif
#define EDGEWISE_BYTES 64  // vector width
#define EDGEWISE_PANEL 4  // vectors of a matrix product held per row
namespace edgewise::avx512 {
#include "table.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
