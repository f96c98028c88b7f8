// Kernels for avx2; only plain C headers come before the target switch, so
// that no inline function shared with other files is compiled for it.
#include <cmath>
#include <cstdint>

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define EDGEWISE_BYTES 32  // vector width
#define EDGEWISE_PANEL 2  // vectors of a matrix product held per row
namespace edgewise::avx2 {
#include "table.inc"
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
