// The terms of a batch norm and its gate, and their gradients: `affine_reference.norm_terms`.
//
// N batch, C channels; values are [N, C] or [C]. One thread computes them, since they are few. Sums
// over the samples are in double.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Size = std::int64_t;

template <class T>
void norm_terms(const T* mean_nc, const T* var_nc, const T* weight, const T* bias, double eps,
                T* mean, T* var, T* inv_std, T* scale, T* descriptor, Size N, Size C) {
  std::vector<double> sums(2 * C);
  double *means = sums.data(), *vars = means + C;
  for (Size n = 0; n < N; n++)
    for (Size c = 0; c < C; c++) means[c] += mean_nc[n * C + c];
  for (Size c = 0; c < C; c++) means[c] /= N;
  for (Size n = 0; n < N; n++)
    for (Size c = 0; c < C; c++) {
      const double centred = mean_nc[n * C + c] - means[c];
      vars[c] += var_nc[n * C + c] + centred * centred;
    }
  for (Size c = 0; c < C; c++) {
    mean[c] = T(means[c]);
    var[c] = T(vars[c] / N);
    inv_std[c] = T(1 / std::sqrt(vars[c] / N + eps));
    scale[c] = weight ? inv_std[c] * weight[c] : inv_std[c];
  }
  for (Size n = 0; n < N; n++)
    for (Size c = 0; c < C; c++)
      descriptor[n * C + c] =
          (mean_nc[n * C + c] - mean[c]) * scale[c] + (bias ? bias[c] : T(0));
}

template <class T>
void norm_terms_grads(const T* d_mean_nc, const T* d_scale, const T* d_descriptor,
                      const T* mean_nc, const T* mean, const T* inv_std, const T* scale,
                      T* d_weight, T* d_bias, T* slope, T* offset, double area, Size N, Size C) {
  std::vector<double> sums(2 * C);
  double *d_scales = sums.data(), *d_biases = d_scales + C;
  for (Size n = 0; n < N; n++)
    for (Size c = 0; c < C; c++) {
      const T g = d_descriptor[n * C + c];
      d_biases[c] += g;
      d_scales[c] += g * (mean_nc[n * C + c] - mean[c]);
    }
  for (Size c = 0; c < C; c++) {
    if (d_scale) d_scales[c] += d_scale[c];
    d_weight[c] = T(d_scales[c] * inv_std[c]);
    d_bias[c] = T(d_biases[c]);
    d_scales[c] *= -double(scale[c]) * inv_std[c] * inv_std[c] / N;  // dL/dvar times 2 / N
    d_biases[c] /= N;
  }
  for (Size n = 0; n < N; n++)
    for (Size c = 0; c < C; c++) {
      const Size i = n * C + c;
      double d = (d_descriptor[i] - d_biases[c]) * scale[c] + (mean_nc[i] - mean[c]) * d_scales[c];
      if (d_mean_nc) d += d_mean_nc[i];
      offset[i] = T(d / area);
      slope[i] = T(d_scales[c] / area);
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                          \
  extern "C" void NAME##_norm_terms(const T* mean_nc, const T* var_nc, const T* weight,          \
                                    const T* bias, T* mean, T* var, T* inv_std, T* scale,        \
                                    T* descriptor, double eps, Size N, Size C) {                 \
    norm_terms(mean_nc, var_nc, weight, bias, eps, mean, var, inv_std, scale, descriptor, N, C); \
  }                                                                                              \
  extern "C" void NAME##_norm_terms_grads(                                                       \
      const T* d_mean_nc, const T* d_scale, const T* d_descriptor, const T* mean_nc,             \
      const T* mean, const T* inv_std, const T* scale, T* d_weight, T* d_bias, T* slope,         \
      T* offset, double area, Size N, Size C) {                                                  \
    norm_terms_grads(d_mean_nc, d_scale, d_descriptor, mean_nc, mean, inv_std, scale, d_weight,  \
                     d_bias, slope, offset, area, N, C);                                         \
  }

EXPORT(float, float32)
EXPORT(double, float64)
#undef EXPORT
