// SPDX-License-Identifier: MIT
// Classifies images with an exported network; needs neither Python nor libtorch.
//
//   classify MODEL.pte [--mean M] [--deviation D] [--scores FILE] [--one-thread] IMAGE...
//
// An image is a binary PGM (grey) or PPM (colour) file of the network's input size; pixels of 0 to
// 255 become (pixel - M) / D. Prints the top classes of each image and the time it took; with
// --scores, the raw scores are written too, float32, one image after the other.
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <l1sparse.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace {

using executorch::extension::MmapDataLoader;
using executorch::extension::Module;
using executorch::extension::threadpool::NoThreadPoolGuard;

constexpr std::size_t kTopClasses = 3;

[[noreturn]] void fail(const std::string& text) {
  std::fprintf(stderr, "classify: %s\n", text.c_str());
  std::exit(1);
}

struct Image {
  int channels, height, width;
  std::vector<unsigned char> pixels;  // [height][width][channels]
};

Image read_image(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Image image{};
  int highest = 0;
  file >> magic >> image.width >> image.height >> highest;
  file.get();  // the one white space before the pixels
  const bool sized =
      image.width > 0 && image.height > 0 && std::max(image.width, image.height) < 1 << 14;
  if (!file || (magic != "P5" && magic != "P6") || highest != 255 || !sized) {
    fail(path + ": no binary PGM or PPM file with values up to 255, without comments");
  }
  image.channels = magic == "P5" ? 1 : 3;
  image.pixels.resize(static_cast<std::size_t>(image.channels) * image.height * image.width);
  file.read(reinterpret_cast<char*>(image.pixels.data()),
            static_cast<std::streamsize>(image.pixels.size()));
  if (!file) fail(path + ": ends too early");
  return image;
}

// The mapped file, whose checksum is right: ExecuTorch does not survive every damaged program.
std::unique_ptr<MmapDataLoader> whole_file(const std::string& path) {
  auto loader = MmapDataLoader::from(path.c_str(), MmapDataLoader::MlockConfig::NoMlock);
  if (!loader.ok()) fail(path + ": can't be read");
  const auto content = loader->load(0, loader->size().get(), {});
  if (!content.ok()) fail(path + ": can't be read");
  char text[160];
  const l1sparse_status status = l1sparse_program_check(content->data(), content->size());
  l1sparse_status_text(status, text, sizeof(text));
  if (status.code != L1SPARSE_OK) fail(path + ": " + text);
  return std::make_unique<MmapDataLoader>(std::move(*loader));
}

// The network's input [1, channels, height, width].
std::vector<float> normalised(const Image& image, float mean, float deviation) {
  std::vector<float> input(image.pixels.size());
  const std::size_t pixels = input.size() / image.channels;
  for (std::size_t i = 0; i < input.size(); ++i) {
    input[i % image.channels * pixels + i / image.channels] =
        (static_cast<float>(image.pixels[i]) - mean) / deviation;
  }
  return input;
}

void print_top(const std::string& path, const float* scores, std::size_t classes, double ms) {
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t shown = std::min(kTopClasses, classes);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(),
                    [scores](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  float total = 0.0f;
  for (std::size_t i = 0; i < classes; ++i) total += std::exp(scores[i] - scores[order[0]]);
  std::printf("%s:", path.c_str());
  for (std::size_t i = 0; i < shown; ++i) {
    std::printf(" %zu (%.1f %%)", order[i],
                100.0f * std::exp(scores[order[i]] - scores[order[0]]) / total);
  }
  std::printf("  %.3f ms\n", ms);
}

}  // namespace

int main(int count, char** arguments) {
  float mean = 0.0f, deviation = 255.0f;
  std::string model, scores_path;
  std::vector<std::string> images;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const bool has_value = i + 1 < count;
    if (argument == "--mean" && has_value) {
      mean = std::strtof(arguments[++i], nullptr);
    } else if (argument == "--deviation" && has_value) {
      deviation = std::strtof(arguments[++i], nullptr);
    } else if (argument == "--scores" && has_value) {
      scores_path = arguments[++i];
    } else if (argument == "--one-thread") {
      NoThreadPoolGuard::set_enabled(true);
    } else {
      (model.empty() ? model : images.emplace_back()) = argument;
    }
  }
  if (images.empty() || !(deviation > 0.0f)) {
    fail("usage: classify MODEL.pte [OPTION...] IMAGE...");
  }
  Module module(whole_file(model));
  if (module.load_forward() != executorch::runtime::Error::Ok) fail(model + ": can't be loaded");
  std::ofstream scores_file;
  if (!scores_path.empty()) scores_file.open(scores_path, std::ios::binary);
  for (const std::string& path : images) {
    const Image image = read_image(path);
    std::vector<float> input = normalised(image, mean, deviation);
    const auto tensor = executorch::extension::from_blob(
        input.data(), {1, image.channels, image.height, image.width});
    const auto start = std::chrono::steady_clock::now();
    const auto outputs = module.forward(tensor);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    if (!outputs.ok()) fail(path + ": the network does not take this image");
    const auto& scores = outputs->at(0).toTensor();
    const auto classes = static_cast<std::size_t>(scores.numel());
    print_top(path, scores.const_data_ptr<float>(), classes, time.count());
    scores_file.write(reinterpret_cast<const char*>(scores.const_data_ptr<float>()),
                      static_cast<std::streamsize>(classes * sizeof(float)));
  }
  return scores_path.empty() || scores_file.flush() ? 0 : 1;
}
