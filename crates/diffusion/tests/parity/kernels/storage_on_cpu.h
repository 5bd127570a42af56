// What storage.cuh and row_sums.cuh take from the GPU's own instructions: 16-bit floats, rounded to nearest, ties to even,
// and products of tiles.
#pragma once

static inline unsigned bits_of(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
static inline float of_bits(unsigned u) { float x; memcpy(&x, &u, 4); return x; }

static inline float widen(bf16 x) { return of_bits((unsigned)x.bits << 16); }
template <> inline bf16 rounded<bf16>(float x) {
  const unsigned u = bits_of(x);
  return __builtin_isnan(x) ? bf16{0x7fff} : bf16{(unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

static inline float widen(f16 x) {
  const unsigned sign = (x.bits & 0x8000u) << 16, rest = (x.bits & 0x7fffu) << 13;
  if ((x.bits & 0x7c00) == 0x7c00) return of_bits(sign | 0x7f800000 | rest);
  return of_bits(sign | bits_of(of_bits(rest) * 0x1p112f)); // Moves the exponent, of subnormals too.
}
template <> inline f16 rounded<f16>(float x) {
  const unsigned sign = bits_of(x) >> 16 & 0x8000, u = bits_of(fabsf(x));
  unsigned bits;
  if (__builtin_isnan(x)) bits = 0x7fff;
  else if (fabsf(x) >= 65520) bits = 0x7c00;
  else if (fabsf(x) < 0x1p-14f) bits = (unsigned)__builtin_nearbyintf(fabsf(x) * 0x1p24f);
  else bits = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
  return f16{(unsigned short)(sign | bits)};
}

// mma.sync.m16n8k16 by its definition: each lane lays down what it has of a[16][16] and b[16][8], and computes what it
// gets of the product. PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
static inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  static float left[32][16][16], right[32][16][8]; // Of each warp.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const unsigned b[2] = {b0, b1};
  for (int half = 0; half < 2; half++) {
    const auto number = [half](unsigned pair) { return widen(bf16{(unsigned short)(pair >> 16 * half)}); };
    for (int part = 0; part < 4; part++) left[warp][g + part % 2 * 8][t * 2 + half + part / 2 * 8] = number(a[part]);
    for (int part = 0; part < 2; part++) right[warp][t * 2 + half + part * 8][g] = number(b[part]);
  }
  wait_for_others();
  for (int part = 0; part < 4; part++)
    for (int k = 0; k < 16; k++) d[part] += left[warp][g + part / 2 * 8][k] * right[warp][k][t * 2 + part % 2];
  wait_for_others();
}
