// Σ_j |X[i, :] · Y[j, :]| without the product ever being written: bfloat16 operands, float32 products and sums, on tensor
// cores (mma.sync, PTX ISA "Warp-level matrix instructions").
#pragma once
#include "storage.cuh"

enum {
  ROWS = 128,      // Of x, a block: 16 for each of its 8 warps.
  COLUMNS = 64,    // Rows of y in shared memory at a time.
  INNER = 64,      // The most that x and y have in common; fewer are filled up with zeros.
  STRIDE = INNER + 8 // Numbers from one row of y to the next in shared memory, so that a warp's reads meet in no bank.
};

// d += a · b for tiles of 16x16 and 16x8 numbers, each spread over a warp as the PTX ISA says.
#ifndef CUDA_ON_CPU
__device__ inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Numbers k and k + 1 of a row, the first in the lower half; zeros beyond the end.
__device__ inline unsigned pair(const bf16* x, int row, int rows, int k, int inner) {
  if (row >= rows) return 0;
  const bf16* from = x + (long long)row * inner + k;
  return (k < inner ? from[0].bits : 0u) | (k + 1 < inner ? (unsigned)from[1].bits << 16 : 0u);
}

// Grid (n by ROWS, m by `columns`); shared: bf16[COLUMNS][STRIDE]. x[n][inner], y[m][inner]; partial[m by columns][n].
template <int V>
__device__ void absolute_row_sums(const bf16* x, const bf16* y, float* partial, int n, int m, int inner, int columns) {
  bf16* tile = (bf16*)dynamic_shared;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int row = blockIdx.x * ROWS + threadIdx.x / 32 * 16 + g;
  const int first = blockIdx.y * columns, end = min(first + columns, m);
  unsigned a[INNER / 16][4];
#pragma unroll
  for (int s = 0; s < INNER / 16; s++)
#pragma unroll
    for (int part = 0; part < 4; part++) a[s][part] = pair(x, row + part % 2 * 8, n, s * 16 + part / 2 * 8 + t * 2, inner);
  float upper = 0, lower = 0;
  for (int start = first; start < end; start += COLUMNS) {
    for (int i = threadIdx.x; i < COLUMNS * (INNER / V); i += blockDim.x) {
      const int column = i / (INNER / V), k = i % (INNER / V) * V;
      Pack<bf16, V> values = {};
      if (start + column < end && k < inner) values = load<V>(y + (long long)(start + column) * inner + k);
      store<V>(tile + column * STRIDE + k, values);
    }
    __syncthreads();
#pragma unroll 2
    for (int j = 0; j < COLUMNS; j += 8) {
      float d[4] = {0, 0, 0, 0};
#pragma unroll
      for (int s = 0; s < INNER / 16; s++) {
        const unsigned* b = (const unsigned*)(tile + (j + g) * STRIDE + s * 16 + t * 2);
        multiply(d, a[s], b[0], b[4]);
      }
      upper += fabsf(d[0]) + fabsf(d[1]);
      lower += fabsf(d[2]) + fabsf(d[3]);
    }
    __syncthreads();
  }
  for (int other = 1; other < 4; other <<= 1) {
    upper += __shfl_xor_sync(0xffffffffu, upper, other);
    lower += __shfl_xor_sync(0xffffffffu, lower, other);
  }
  if (t == 0 && row < n) partial[(long long)blockIdx.y * n + row] = upper;
  if (t == 0 && row + 8 < n) partial[(long long)blockIdx.y * n + row + 8] = lower;
}
