// The kernels for a CPU, as a shared library: `run_NAME` runs a whole grid with the arguments that cuLaunchKernel takes.
#include "cuda_on_cpu.h"
#include "kernels.cu"

// g++'s __integer_pack is what std::index_sequence is made of.
template <size_t... I> struct Numbers {};
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, Numbers<I...>) { kernel(*(A*)arguments[I]...); }
template <class... A> static void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, Numbers<__integer_pack(sizeof...(A))...>{});
}

#define RUN(name)                                                                                                         \
  extern "C" void run_##name(unsigned x, unsigned y, unsigned block, unsigned shared, void** arguments) {                 \
    run_grid(dim3{x, y, 1}, block, shared, [](void** a) { call(name, a); }, arguments);                                   \
  }
#define RUN_OF_STORAGE(T, S) RUN(group_norm_affine_##S)
#define RUN_OF_PACKS(T, S, V)                                                                                             \
  RUN(group_norm_moments_##S##_##V) RUN(group_norm_apply_##S##_##V) RUN(add_layer_norm_##S##_##V)                         \
  RUN(bias_residual_##S##_##V) RUN(geglu_##S##_##V)
EVERY_STORAGE(RUN_OF_STORAGE)
EVERY_PACK(RUN_OF_PACKS)
RUN(absolute_row_sums_bf16_8)
RUN(absolute_row_sums_bf16_1)
