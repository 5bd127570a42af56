// Every kernel under the name by which it is launched: what it does, the storage, and numbers a pack where that matters.
#include "group_norm.cuh"
#include "row_sums.cuh"
#include "tokens.cuh"

#define KERNEL extern "C" __global__ void __launch_bounds__(256)

#define OF_STORAGE(T, S)                                                                                                  \
  KERNEL group_norm_affine_##S(const T* x, const T* bias, const T* time, int stride, const T* weight, const T* shift,     \
                               const Moments* partial, Affine* affine, int hw, int c, int groups, int chunks, float eps) { \
    group_norm_affine<T>(x, bias, time, stride, weight, shift, partial, affine, hw, c, groups, chunks, eps);              \
  }

#define OF_PACKS(T, S, V)                                                                                                 \
  KERNEL group_norm_moments_##S##_##V(const T* x, const T* bias, const T* time, int stride, Moments* partial, int hw,     \
                                      int c, int groups, int chunk) {                                                     \
    group_norm_moments<T, V>(x, bias, time, stride, partial, hw, c, groups, chunk);                                       \
  }                                                                                                                       \
  KERNEL group_norm_apply_##S##_##V(const T* x, const Affine* affine, T* y, int hw, int c, int chunk, int with_silu) {    \
    group_norm_apply<T, V>(x, affine, y, hw, c, chunk, with_silu);                                                        \
  }                                                                                                                       \
  KERNEL add_layer_norm_##S##_##V(const T* x, const T* addend, T* total, const T* weight, const T* shift, T* y, int rows, \
                                  int c, float eps) {                                                                     \
    add_layer_norm<T, V>(x, addend, total, weight, shift, y, rows, c, eps);                                               \
  }                                                                                                                       \
  KERNEL bias_residual_##S##_##V(const T* x, const T* bias, const T* residual, const T* residual_bias, T* y, int packs,   \
                                 int c) {                                                                                 \
    bias_residual<T, V>(x, bias, residual, residual_bias, y, packs, c);                                                   \
  }                                                                                                                       \
  KERNEL geglu_##S##_##V(const T* x, T* y, int packs, int c) { geglu<T, V>(x, y, packs, c); }

#define EVERY_STORAGE(F) F(float, f32) F(bf16, bf16) F(f16, f16)
#define EVERY_PACK(F) F(float, f32, 4) F(float, f32, 1) F(bf16, bf16, 8) F(bf16, bf16, 1) F(f16, f16, 8) F(f16, f16, 1)

#define OF_BF16(V)                                                                                                        \
  KERNEL absolute_row_sums_bf16_##V(const bf16* x, const bf16* y, float* partial, int n, int m, int inner, int columns) { \
    absolute_row_sums<V>(x, y, partial, n, m, inner, columns);                                                            \
  }

EVERY_STORAGE(OF_STORAGE)
EVERY_PACK(OF_PACKS)
OF_BF16(8)
OF_BF16(1)
