// Vectors of the compiler (`vector_size`), so that the same source serves AVX2 and AVX-512.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 14;  // 28 of 32 registers hold sums
#else
constexpr int LANES = 8, ROWS = 6;  // 12 of 16
#endif
constexpr int VECTORS = 2, COLUMNS = VECTORS * LANES;

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }

inline Vector load_some(const float* from, int count) {
  alignas(64) float buffer[LANES] = {};
  std::memcpy(buffer, from, count * sizeof(float));
  return *reinterpret_cast<const Vector*>(buffer);
}

inline void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }

inline void store_some(float* to, Vector value, int count) {
  alignas(64) float buffer[LANES];
  *reinterpret_cast<Vector*>(buffer) = value;
  std::memcpy(to, buffer, count * sizeof(float));
}

// The larger of each two numbers; what is not a number in `y` stays so.
inline Vector at_least(Vector low, Vector y) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(
      _mm512_max_ps(reinterpret_cast<__m512>(low), reinterpret_cast<__m512>(y)));
#else
  return reinterpret_cast<Vector>(
      _mm256_max_ps(reinterpret_cast<__m256>(low), reinterpret_cast<__m256>(y)));
#endif
}

inline Vector at_most(Vector high, Vector y) { return -at_least(-high, -y); }

inline Vector everywhere(float value) { return value - Vector{}; }

// Numbers that are brought into the cache while something else is computed, some in each step.
struct Ahead {
  const float* next;
  int64_t by;  // how many in each step

  // The i-th of `parts` parts of `count` numbers, in `steps` steps: what is asked for at once keeps
  // other reads waiting.
  static Ahead part(const float* first, int64_t count, int64_t steps, int64_t i, int64_t parts) {
    const int64_t by = (count + steps * parts - 1) / (steps * parts);
    return {first + i * by * steps, by};
  }

  void ask() {
    __builtin_prefetch(next, 0, 2);
    if (by > 16) __builtin_prefetch(next + 16, 0, 2);
    next += by;
  }
};

// exp(x), to 2 units in the last place: 2^n times a polynomial of what is left. It is infinite above
// 88, so that a gate closes wholly: 0 times an infinite number is none, as in torch.
inline Vector exponential(Vector given) {
  Vector x = at_most(everywhere(88.f), at_least(everywhere(-87.f), given));
  typedef int32_t Whole __attribute__((vector_size(LANES * 4)));
  const Vector scaled = x * 1.44269504f;
  const Vector half = scaled < Vector{} ? everywhere(-.5f) : everywhere(.5f);
  const Whole n = __builtin_convertvector(scaled + half, Whole);
  const Vector power = __builtin_convertvector(n, Vector);
  const Vector r = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  Vector y = everywhere(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                  5.0000001201e-1f})
    y = y * r + c;
  y = y * r * r + r + 1.f;
  y *= reinterpret_cast<Vector>((n + 127) << 23);
  return given > 88.f ? everywhere(std::numeric_limits<float>::infinity()) : y;
}

// factor * sigmoid(x)
inline Vector scaled_sigmoid(Vector factor, Vector x) { return factor / (1.f + exponential(-x)); }

}  // namespace
