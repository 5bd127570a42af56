// What happens to rows of channels: residuals, layer normalisation, GEGLU. Each row's bytes depend on that row alone.
#pragma once
#include "storage.cuh"

// The sum over a warp, the same in each of its lanes.
__device__ inline float warp_sum(float x) {
  for (int other = 16; other > 0; other >>= 1) x += __shfl_xor_sync(0xffffffffu, x, other);
  return x;
}

// x[rows][c] and, where there is one, an addend of the same shape; rounded as the sum is stored.
template <int V, class T> __device__ inline Pack<T, V> summed(const T* x, const T* addend, long long at) {
  Pack<T, V> values = load<V>(x + at);
  if (addend) {
    const Pack<T, V> more = load<V>(addend + at);
#pragma unroll
    for (int i = 0; i < V; i++) values.at[i] = rounded<T>(widen(values.at[i]) + widen(more.at[i]));
  }
  return values;
}

// A warp a row, blockDim.x / 32 rows a block. total = x + addend (where there is an addend; it may lie where x does), and
// y = (total − mean) / √(variance + eps) · weight + shift over each row. The row is read three times, twice from the cache.
template <class T, int V>
__device__ void add_layer_norm(const T* x, const T* addend, T* total, const T* weight, const T* shift, T* y, int rows, int c,
                               float eps) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const long long start = (long long)row * c;
  float sum = 0;
#pragma unroll 1
  for (int k = lane * V; k < c; k += 32 * V) {
    const Pack<T, V> values = summed<V>(x, addend, start + k);
#pragma unroll
    for (int i = 0; i < V; i++) sum += widen(values.at[i]);
  }
  const float mean = warp_sum(sum) / c;
  float square = 0;
#pragma unroll 1
  for (int k = lane * V; k < c; k += 32 * V) {
    const Pack<T, V> values = summed<V>(x, addend, start + k);
#pragma unroll
    for (int i = 0; i < V; i++) square += (widen(values.at[i]) - mean) * (widen(values.at[i]) - mean);
  }
  const float factor = rsqrtf(warp_sum(square) / c + eps);
#pragma unroll 1
  for (int k = lane * V; k < c; k += 32 * V) {
    Pack<T, V> values = summed<V>(x, addend, start + k);
    if (addend) store<V>(total + start + k, values);
    const Pack<T, V> by = load<V>(weight + k), plus = load<V>(shift + k);
#pragma unroll
    for (int i = 0; i < V; i++)
      values.at[i] = rounded<T>((widen(values.at[i]) - mean) * factor * widen(by.at[i]) + widen(plus.at[i]));
    store<V>(y + start + k, values);
  }
}

// y[rows][c] = x + bias + residual + residual_bias, a thread a pack. Either bias[c] may be null; y may lie where x does.
template <class T, int V>
__device__ void bias_residual(const T* x, const T* bias, const T* residual, const T* residual_bias, T* y, int packs, int c) {
  const int pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  const long long at = (long long)pack * V;
  const int k = pack % (c / V) * V;
  Pack<T, V> values = load<V>(x + at);
  const Pack<T, V> more = load<V>(residual + at);
#pragma unroll
  for (int i = 0; i < V; i++) {
    float sum = widen(values.at[i]) + widen(more.at[i]);
    if (bias) sum += widen(bias[k + i]);
    if (residual_bias) sum += widen(residual_bias[k + i]);
    values.at[i] = rounded<T>(sum);
  }
  store<V>(y + at, values);
}

// x[rows][2c], values then gates; y[rows][c] = value · gelu(gate) (Shazeer 2020), a thread a pack of y.
template <class T, int V> __device__ void geglu(const T* x, T* y, int packs, int c) {
  const int pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack >= packs) return;
  const int row = pack / (c / V), k = pack % (c / V) * V;
  const T* from = x + (long long)row * 2 * c + k;
  Pack<T, V> values = load<V>(from);
  const Pack<T, V> gates = load<V>(from + c);
#pragma unroll
  for (int i = 0; i < V; i++) values.at[i] = rounded<T>(widen(values.at[i]) * gelu(widen(gates.at[i])));
  store<V>(y + (long long)row * c + k, values);
}
