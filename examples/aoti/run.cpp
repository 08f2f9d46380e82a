// SPDX-License-Identifier: MIT
// Runs a network that torch compiled ahead of time, from C++, without Python:
//
//   run OPERATORS PACKAGE INPUT OUTPUT
//
// OPERATORS is l1sparse's extension module, whose operators the package calls; PACKAGE is what
// torch._inductor.aoti_compile_and_package wrote; INPUT is a tensor that torch.save wrote, and
// OUTPUT is written as one. docs/accelerate.md says how to build it.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::vector<char> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

void run(const std::string& operators, const std::string& package, const std::string& input,
         const std::string& output) {
  // Lazily: it names a few functions of Python's that no operator calls.
  if (dlopen(operators.c_str(), RTLD_LAZY) == nullptr) throw std::runtime_error(dlerror());
  const c10::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader network(package);
  const std::vector<at::Tensor> outputs =
      network.run({torch::pickle_load(bytes_of(input)).toTensor()});
  write(output, torch::pickle_save(outputs.at(0)));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: run OPERATORS PACKAGE INPUT OUTPUT\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argv[4]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return 1;
  }
  return 0;
}
