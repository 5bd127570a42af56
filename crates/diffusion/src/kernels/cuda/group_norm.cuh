// Group normalisation and SiLU over a feature map with channels last, x[n][hw][c], in three kernels: moments of chunks of
// pixels, one row's moments made into a factor and an addend a channel, and x · factor + addend.
//
// What a convolution left to add, a bias[c] and a time[c] or time[n][c], counts as part of x without ever being written.
// A chunk follows from hw and c alone, and each sum has one order: a row's bytes depend neither on other rows nor on the
// card. Sums are of distances to the group's first value, so that a large mean costs no digits.
#pragma once
#include "storage.cuh"

struct Moments { float sum, square; };
struct Affine { float factor, addend; };

// Threads that share the sum of one group.
enum { LANES = 8 };

// What is added to channel k of row n before it is normalised. Either pointer may be null; a time's rows are `stride`
// apart, 0 where all rows share one.
template <class T> __device__ inline float pending(const T* bias, const T* time, int stride, int n, int k) {
  return (bias ? widen(bias[k]) : 0.0f) + (time ? widen(time[(long long)n * stride + k]) : 0.0f);
}

// The value that a group's sums are taken around: its first.
template <class T>
__device__ inline float pivot(const T* x, const T* bias, const T* time, int stride, int n, int hw, int c, int first) {
  return widen(x[(long long)n * hw * c + first]) + pending(bias, time, stride, n, first);
}

// How a block's threads are spread over a chunk: thread (row, lane) has packs lane, lane + lanes, … of pixels row,
// row + rows, … of the chunk.
template <int V> struct Spread {
  int packs, lanes, rows, row, lane;
  __device__ explicit Spread(int c) {
    packs = c / V;
    lanes = min(packs, (int)blockDim.x);
    rows = blockDim.x / lanes;
    row = threadIdx.x / lanes;
    lane = threadIdx.x % lanes;
  }
  __device__ bool idle() const { return row >= rows; }
};

// Grid (chunks, n); shared: Moments[rows][c] and Moments[groups][LANES]. partial[n][chunk][group].
template <class T, int V>
__device__ void group_norm_moments(const T* x, const T* bias, const T* time, int stride, Moments* partial, int hw, int c,
                                   int groups, int chunk) {
  const int n = blockIdx.y, first = blockIdx.x * chunk, end = min(first + chunk, hw), width = c / groups;
  const Spread<V> spread(c);
  Moments* of_channels = (Moments*)dynamic_shared;
  Moments* of_lanes = of_channels + spread.rows * c;
  for (int pack = spread.lane; pack < spread.packs && !spread.idle(); pack += spread.lanes) {
    const int k = pack * V;
    float shift[V], sum[V], square[V];
    for (int i = 0; i < V; i++) {
      const int head = (k + i) / width * width;
      shift[i] = pending(bias, time, stride, n, k + i) - pivot(x, bias, time, stride, n, hw, c, head);
      sum[i] = square[i] = 0;
    }
#pragma unroll 2
    for (int p = first + spread.row; p < end; p += spread.rows) {
      const Pack<T, V> values = load<V>(x + ((long long)n * hw + p) * c + k);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float u = widen(values.at[i]) + shift[i];
        sum[i] += u;
        square[i] += u * u;
      }
    }
    for (int i = 0; i < V; i++) of_channels[spread.row * c + k + i] = Moments{sum[i], square[i]};
  }
  __syncthreads();
  for (int part = threadIdx.x; part < groups * LANES; part += blockDim.x) {
    const int group = part / LANES;
    Moments total = {0, 0};
    for (int e = part % LANES; e < spread.rows * width; e += LANES) {
      const Moments m = of_channels[e / width * c + group * width + e % width];
      total.sum += m.sum;
      total.square += m.square;
    }
    of_lanes[part] = total;
  }
  __syncthreads();
  for (int group = threadIdx.x; group < groups; group += blockDim.x) {
    Moments total = {0, 0};
    for (int lane = 0; lane < LANES; lane++) {
      total.sum += of_lanes[group * LANES + lane].sum;
      total.square += of_lanes[group * LANES + lane].square;
    }
    partial[((long long)n * gridDim.x + blockIdx.x) * groups + group] = total;
  }
}

// Grid (n); shared: double[groups][LANES][2]. affine[n][c].
template <class T>
__device__ void group_norm_affine(const T* x, const T* bias, const T* time, int stride, const T* weight, const T* shift,
                                  const Moments* partial, Affine* affine, int hw, int c, int groups, int chunks, float eps) {
  const int n = blockIdx.x, width = c / groups;
  double* sums = (double*)dynamic_shared;
  for (int part = threadIdx.x; part < groups * LANES; part += blockDim.x) {
    const int group = part % groups, lane = part / groups;
    double sum = 0, square = 0;
    for (int chunk = lane; chunk < chunks; chunk += LANES) {
      const Moments m = partial[((long long)n * chunks + chunk) * groups + group];
      sum += m.sum;
      square += m.square;
    }
    sums[(group * LANES + lane) * 2] = sum;
    sums[(group * LANES + lane) * 2 + 1] = square;
  }
  __syncthreads();
  const double count = (double)hw * width;
  for (int k = threadIdx.x; k < c; k += blockDim.x) {
    const int group = k / width;
    double sum = 0, square = 0;
    for (int lane = 0; lane < LANES; lane++) {
      sum += sums[(group * LANES + lane) * 2];
      square += sums[(group * LANES + lane) * 2 + 1];
    }
    const double mean = sum / count, variance = square / count - mean * mean;
    const double factor = widen(weight[k]) / sqrt((variance > 0 ? variance : 0) + eps);
    const double from_pivot =
        (double)pending(bias, time, stride, n, k) - pivot(x, bias, time, stride, n, hw, c, group * width) - mean;
    affine[(long long)n * c + k] = Affine{(float)factor, (float)(widen(shift[k]) + from_pivot * factor)};
  }
}

// Grid (chunks, n). y[n][hw][c] = x · factor + addend, then SiLU where `with_silu`.
template <class T, int V>
__device__ void group_norm_apply(const T* x, const Affine* affine, T* y, int hw, int c, int chunk, int with_silu) {
  const int n = blockIdx.y, first = blockIdx.x * chunk, end = min(first + chunk, hw);
  const Spread<V> spread(c);
  for (int pack = spread.lane; pack < spread.packs && !spread.idle(); pack += spread.lanes) {
    const int k = pack * V;
    Affine of[V];
    for (int i = 0; i < V; i++) of[i] = affine[(long long)n * c + k + i];
#pragma unroll 2
    for (int p = first + spread.row; p < end; p += spread.rows) {
      const long long at = ((long long)n * hw + p) * c + k;
      Pack<T, V> values = load<V>(x + at);
#pragma unroll
      for (int i = 0; i < V; i++) {
        const float z = widen(values.at[i]) * of[i].factor + of[i].addend;
        values.at[i] = rounded<T>(with_silu ? silu(z) : z);
      }
      store<V>(y + at, values);
    }
  }
}
