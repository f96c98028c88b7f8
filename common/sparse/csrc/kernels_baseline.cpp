// Kernels for any processor; only plain C headers come before the target switch, so
// that no inline function shared with other files is compiled for it.
#include <cmath>
#include <cstdint>

#include "kernels.h"

#define EDGEWISE_BYTES 16  // vector width
#define EDGEWISE_PANEL 2  // vectors of a matrix product held per row
namespace edgewise::baseline {
#include "table.inc"
}
