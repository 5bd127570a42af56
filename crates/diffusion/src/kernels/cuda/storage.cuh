// How tensors store numbers, and how a thread reads and writes several of them at once. Arithmetic is float32 whatever
// the storage. Needs no header of CUDA's: NVRTC alone compiles it, and cuda_on_cpu.h stands in for the rest on a CPU.
#pragma once

struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };

// The nearest stored number, ties to even.
template <class T> __device__ T rounded(float x);
template <> __device__ inline float rounded<float>(float x) { return x; }
__device__ inline float widen(float x) { return x; }

#ifdef CUDA_ON_CPU
#include "storage_on_cpu.h"
#else
// Every kernel's own part of the block's shared memory, 16-byte aligned.
extern __shared__ __align__(16) unsigned char dynamic_shared[];

__device__ inline float widen(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline float widen(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
template <> __device__ inline bf16 rounded<bf16>(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
template <> __device__ inline f16 rounded<f16>(float x) { f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
#endif

// V neighbours of a tensor, moved in one go: 16 bytes, or one number where a shape or an address allows no more.
template <class T, int V> struct __align__(sizeof(T) * V) Pack { T at[V]; };

template <int V, class T> __device__ inline Pack<T, V> load(const T* from) { return *(const Pack<T, V>*)from; }
template <int V, class T> __device__ inline void store(T* to, const Pack<T, V>& pack) { *(Pack<T, V>*)to = pack; }

// x · σ(x). The fast exponential and division are off by a few units in the last place of float32.
__device__ inline float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// x · Φ(x), the GELU with the error function (Hendrycks & Gimpel 2016).
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
