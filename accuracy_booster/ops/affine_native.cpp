// The passes of `affine` and `norm_terms` over feature maps in the memory of the CPU.
//
// `affine_reference.py` defines what they compute, and `affine_native.py` calls them. Values per
// sample and channel have the type T of the map.
//
// N batch, C channels, S = H * W positions of space (or L, or D * H * W). A map is [N, C, S] in
// memory, or [N, S, C] where `last` is true. Other values are [N, C] or [C].

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Size = std::int64_t;

constexpr Size WIDTH = 256;   // elements: rows of fewer channels are taken several at a time
constexpr Size CHUNK = 8192;  // elements that are read twice: they stay in the nearest cache

// Values per channel: one for a row of [N, C, S], one for each element of a row of [N, S, C].
template <bool LAST, class T>
inline T at(const T* v, Size i) {
  return LAST ? v[i] : v[0];
}

// The part of a channels-last map that one task reads: channels [begin, begin + width) of sample n.
// Where it has all channels, `together` positions follow one another in memory as one row.
struct Part {
  Size n, begin, width, together;
};

struct Shape {
  Size N, C, S;
  int threads;

  // How many parts a sample has, so that there is work for all threads.
  Size parts() const {
    if (N >= threads) return 1;
    return std::max<Size>(1, std::min<Size>((threads + N - 1) / N, C / 16));
  }

  Part part(Size task) const {
    const Size count = parts(), p = task % count;
    const Size begin = C * p / count, end = C * (p + 1) / count;
    return {task / count, begin, end - begin, count > 1 ? 1 : std::max<Size>(1, WIDTH / C)};
  }

  // Calls f(offset in the map, elements) for each row of positions [first, last) of a part.
  template <class F>
  void rows(const Part& part, Size first, Size last, F f) const {
    for (Size s = first; s < last; s += part.together)
      f((part.n * S + s) * C + part.begin, std::min(part.together, last - s) * part.width);
  }

  // How many positions are about CHUNK elements.
  Size chunk(const Part& part) const {
    const Size rows = std::max<Size>(1, CHUNK / (part.together * part.width));
    return rows * part.together;
  }
};

// Values [N, C] of a part, repeated for each position of a row; none are 0.
template <class T>
void repeat(const T* values, const Shape& shape, const Part& part, T* row) {
  for (Size k = 0; k < part.together; k++)
    for (Size c = 0; c < part.width; c++)
      row[k * part.width + c] = values ? values[part.n * shape.C + part.begin + c] : T(0);
}

// The sum over the positions of a row, for each channel.
template <class T>
T total(const T* row, const Part& part, Size c) {
  T sum = 0;
  for (Size k = 0; k < part.together; k++) sum += row[k * part.width + c];
  return sum;
}

// A variance that rounding may have made less than 0; NaN stays NaN.
template <class T>
inline T not_negative(T v) {
  return v < 0 ? T(0) : v;
}

template <class T>
void sample_moments(const T* z, T* mean, T* var, const Shape& shape, bool last) {
  const Size N = shape.N, C = shape.C, S = shape.S;
  if (!last) {
#pragma omp parallel for num_threads(shape.threads)
    for (Size r = 0; r < N * C; r++) {
      const T* x = z + r * S;
      T sum = 0, rest = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (Size i = 0; i < S; i++) sum += x[i];
      const T m = sum / S;
#pragma omp simd reduction(+ : rest, squares)
      for (Size i = 0; i < S; i++) {
        const T d = x[i] - m;
        rest += d;
        squares += d * d;
      }
      rest /= S;  // what the rounding of a sum of large values left
      mean[r] = m + rest;
      var[r] = not_negative(squares / S - rest * rest);
    }
    return;
  }
#pragma omp parallel for num_threads(shape.threads)
  for (Size task = 0; task < N * shape.parts(); task++) {
    const Part part = shape.part(task);
    const Size row = part.together * part.width, step = shape.chunk(part);
    std::vector<T> memory(3 * row);
    T *sum = memory.data(), *centre = sum + row, *squares = centre + row;
    T* means = mean + part.n * C + part.begin;
    T* vars = var + part.n * C + part.begin;
    std::fill(means, means + part.width, T(0));
    std::fill(vars, vars + part.width, T(0));
    for (Size first = 0; first < S; first += step) {
      const Size end = std::min(S, first + step);
      const T count = T(end - first), seen = T(first);
      std::fill(sum, sum + row, T(0));
      std::fill(squares, squares + row, T(0));
      shape.rows(part, first, end, [&](Size offset, Size length) {
        const T* x = z + offset;
#pragma omp simd
        for (Size i = 0; i < length; i++) sum[i] += x[i];
      });
      for (Size c = 0; c < part.width; c++) {
        const T m = total(sum, part, c) / count;
        for (Size k = 0; k < part.together; k++) centre[k * part.width + c] = m;
      }
      std::fill(sum, sum + row, T(0));
      shape.rows(part, first, end, [&](Size offset, Size length) {
        const T* x = z + offset;
#pragma omp simd
        for (Size i = 0; i < length; i++) {
          const T d = x[i] - centre[i];
          sum[i] += d;
          squares[i] += d * d;
        }
      });
      // Chan's formula joins the chunk and what was seen before it
      for (Size c = 0; c < part.width; c++) {
        const T rest = total(sum, part, c) / count;  // what the rounding of large values left
        const T difference = centre[c] + rest - means[c];
        means[c] += difference * (count / (seen + count));
        vars[c] += not_negative(total(squares, part, c) - count * rest * rest) +
                   difference * difference * (seen * (count / (seen + count)));
      }
    }
    for (Size c = 0; c < part.width; c++) vars[c] /= S;
  }
}

// Calls f(offset, elements, values) for every row of a map, in parallel. `values` are K rows of values
// per channel, of which `at` takes what an element needs.
template <int K, class T, class F>
void each_row(const Shape& shape, bool last, const T* const (&given)[K], const F& f) {
  const Size C = shape.C, S = shape.S;
  if (!last) {
#pragma omp parallel for num_threads(shape.threads)
    for (Size r = 0; r < shape.N * C; r++) {
      T memory[K];
      const T* values[K];
      for (int k = 0; k < K; k++) {
        memory[k] = given[k] ? given[k][r] : T(0);
        values[k] = memory + k;
      }
      f.template run<false>(r * S, S, values);
    }
    return;
  }
#pragma omp parallel for num_threads(shape.threads)
  for (Size task = 0; task < shape.N * shape.parts(); task++) {
    const Part part = shape.part(task);
    const Size row = part.together * part.width;
    std::vector<T> memory(K * row);
    const T* values[K];
    for (int k = 0; k < K; k++) {
      repeat(given[k], shape, part, memory.data() + k * row);
      values[k] = memory.data() + k * row;
    }
    shape.rows(part, 0, S, [&](Size offset, Size length) {
      f.template run<true>(offset, length, values);
    });
  }
}

template <bool ADD, bool RELU, class T>
struct Affine {
  const T *z, *residual;
  T* out;

  template <bool LAST>
  void run(Size offset, Size length, const T* const (&values)[3]) const {
    const T *__restrict x = z + offset, *__restrict q = ADD ? residual + offset : nullptr;
    const T *__restrict mean = values[0], *__restrict scale = values[1];
    const T* __restrict shift = values[2];
    T* __restrict y = out + offset;
#pragma omp simd
    for (Size i = 0; i < length; i++) {
      T v = (x[i] - at<LAST>(mean, i)) * at<LAST>(scale, i) + at<LAST>(shift, i);
      if (ADD) v += q[i];
      y[i] = RELU && v <= 0 ? T(0) : v;  // NaN stays NaN
    }
  }
};

template <class T>
void affine(const T* z, const T* mean, const T* scale, const T* shift, const T* residual, T* out,
            const Shape& shape, bool last, bool relu) {
  const T* const values[] = {mean, scale, shift};
  if (residual && relu)
    each_row(shape, last, values, Affine<true, true, T>{z, residual, out});
  else if (residual)
    each_row(shape, last, values, Affine<true, false, T>{z, residual, out});
  else if (relu)
    each_row(shape, last, values, Affine<false, true, T>{z, residual, out});
  else
    each_row(shape, last, values, Affine<false, false, T>{z, residual, out});
}

template <bool GRAD, class T>
struct InputGrad {
  const T *grad, *z;
  T* out;

  template <bool LAST>
  void run(Size offset, Size length, const T* const (&values)[4]) const {
    const T *__restrict g = GRAD ? grad + offset : nullptr, *__restrict x = z + offset;
    const T *__restrict scale = values[0], *__restrict mean = values[1];
    const T *__restrict slope = values[2], *__restrict constant = values[3];
    T* __restrict y = out + offset;
#pragma omp simd
    for (Size i = 0; i < length; i++) {
      T v = (x[i] - at<LAST>(mean, i)) * at<LAST>(slope, i) + at<LAST>(constant, i);
      if (GRAD) v += g[i] * at<LAST>(scale, i);
      y[i] = v;
    }
  }
};

template <class T>
void input_grad(const T* grad, const T* scale, const T* z, const T* mean, const T* slope,
                const T* offset, T* out, const Shape& shape, bool last) {
  const T* const values[] = {scale, mean, slope, offset};
  if (grad)
    each_row(shape, last, values, InputGrad<true, T>{grad, z, out});
  else
    each_row(shape, last, values, InputGrad<false, T>{grad, z, out});
}

template <bool RELU, class T>
void affine_grads(const T* grad, const T* out, const T* z, const T* mean, T* masked, T* d_scale,
                  T* d_shift, const Shape& shape, bool last) {
  const Size N = shape.N, C = shape.C, S = shape.S;
  if (!last) {
#pragma omp parallel for num_threads(shape.threads)
    for (Size r = 0; r < N * C; r++) {
      const T *g = grad + r * S, *x = z + r * S, *y = RELU ? out + r * S : nullptr;
      T* kept = RELU ? masked + r * S : nullptr;
      const T m = mean ? mean[r] : T(0);
      T products = 0, sum = 0;
#pragma omp simd reduction(+ : products, sum)
      for (Size i = 0; i < S; i++) {
        const T v = RELU && y[i] <= 0 ? T(0) : g[i];  // an output of NaN lets the gradient pass
        if (RELU) kept[i] = v;
        products += v * (x[i] - m);
        sum += v;
      }
      d_scale[r] = products;
      d_shift[r] = sum;
    }
    return;
  }
#pragma omp parallel for num_threads(shape.threads)
  for (Size task = 0; task < N * shape.parts(); task++) {
    const Part part = shape.part(task);
    const Size row = part.together * part.width, step = shape.chunk(part);
    std::vector<T> memory(3 * row);
    T *centre = memory.data(), *products = centre + row, *sum = products + row;
    repeat(mean, shape, part, centre);
    T* scales = d_scale + part.n * C + part.begin;
    T* shifts = d_shift + part.n * C + part.begin;
    std::fill(scales, scales + part.width, T(0));
    std::fill(shifts, shifts + part.width, T(0));
    for (Size first = 0; first < S; first += step) {  // sums of chunks, so that errors stay small
      std::fill(products, products + row, T(0));
      std::fill(sum, sum + row, T(0));
      shape.rows(part, first, std::min(S, first + step), [&](Size offset, Size length) {
        const T *g = grad + offset, *x = z + offset, *y = RELU ? out + offset : nullptr;
        T* kept = RELU ? masked + offset : nullptr;
#pragma omp simd
        for (Size i = 0; i < length; i++) {
          const T v = RELU && y[i] <= 0 ? T(0) : g[i];
          if (RELU) kept[i] = v;
          products[i] += v * (x[i] - centre[i]);
          sum[i] += v;
        }
      });
      for (Size c = 0; c < part.width; c++) {
        scales[c] += total(products, part, c);
        shifts[c] += total(sum, part, c);
      }
    }
  }
}

}  // namespace

#define EXPORT(T, NAME)                                                                          \
  extern "C" void NAME##_sample_moments(const T* z, T* mean, T* var, Size N, Size C, Size S,     \
                                        int last, int threads) {                                 \
    sample_moments(z, mean, var, {N, C, S, threads}, last);                                      \
  }                                                                                              \
  extern "C" void NAME##_affine(const T* z, const T* mean, const T* scale, const T* shift,       \
                                const T* residual, T* out, int relu, Size N, Size C, Size S,     \
                                int last, int threads) {                                         \
    affine(z, mean, scale, shift, residual, out, {N, C, S, threads}, last, relu);                \
  }                                                                                              \
  extern "C" void NAME##_affine_grads(const T* grad, const T* out, const T* z, const T* mean,    \
                                      T* masked, T* d_scale, T* d_shift, Size N, Size C, Size S, \
                                      int last, int threads) {                                   \
    const Shape shape{N, C, S, threads};                                                         \
    if (out)                                                                                     \
      affine_grads<true>(grad, out, z, mean, masked, d_scale, d_shift, shape, last);             \
    else                                                                                         \
      affine_grads<false>(grad, out, z, mean, masked, d_scale, d_shift, shape, last);            \
  }                                                                                              \
  extern "C" void NAME##_input_grad(const T* grad, const T* scale, const T* z, const T* mean,    \
                                    const T* slope, const T* offset, T* out, Size N, Size C,     \
                                    Size S, int last, int threads) {                             \
    input_grad(grad, scale, z, mean, slope, offset, out, {N, C, S, threads}, last);              \
  }

EXPORT(float, float32)
EXPORT(double, float64)
#undef EXPORT
