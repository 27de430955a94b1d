// The logits of images, by an exported network:
//   ./predict model.aoti.pt2 images.f32 logits.f32 [./model.aoti.so]
// images.f32 holds N normalised images, float32 [N, C, H, W]; logits.f32 will hold [N, K].
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>
#include <iostream>

int main(int count, char** words) try {
  if (count < 4) return std::fputs("give NETWORK IMAGES LOGITS [KERNEL]\n", stderr), 2;
  if (count > 4 && !dlopen(words[4], RTLD_NOW)) return std::fputs(dlerror(), stderr), 1;
  torch::inductor::AOTIModelPackageLoader network(words[1]);
  const auto size = network.get_metadata().at("accuracy_booster.input_size");
  long C = 0, H = 0, W = 0;
  std::sscanf(size.c_str(), "[%ld, %ld, %ld]", &C, &H, &W);
  std::ifstream file(words[2], std::ios::binary | std::ios::ate);
  if (!file || file.tellg() % (C * H * W * 4)) return std::fputs("no images of this size\n", stderr), 1;
  const at::Tensor images = at::empty({file.tellg() / (C * H * W * 4), C, H, W});
  file.seekg(0).read(static_cast<char*>(images.data_ptr()), images.nbytes());
  const at::Tensor logits = network.run({images})[0].contiguous();
  std::ofstream output(words[3], std::ios::binary);
  output.write(static_cast<char*>(logits.data_ptr()), logits.nbytes());
  std::cout << logits.argmax(1) << "\n";
} catch (const c10::Error& error) {
  return std::fprintf(stderr, "%s\n", error.what_without_backtrace()), 1;
}
