// SPDX-License-Identifier: MIT
// Runs mutated ExecuTorch programs: each is an error or runs, and what ends the process is counted.
//
//   mutated_programs PROGRAM.pte HEIGHT WIDTH CHANNELS FIRST COUNT [--checked]
//
// Mutations FIRST to FIRST + COUNT - 1, each determined by its number. With --checked a program's
// checksum comes first, as in a device's program; without, whatever ExecuTorch's own verification
// lets through is run. Programs run in a child process, so that one that ends it can be told; its
// number and signal are printed, and the rest goes on in a new child.
#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <l1sparse.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using executorch::extension::BufferDataLoader;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::Program;
using Bytes = std::vector<unsigned char>;

constexpr unsigned kSecondsForOne = 60;

enum Outcome { kUnchecked, kNotLoaded, kNotRun, kSame, kOther, kDied, kOutcomes };
constexpr const char* kOutcomeNames[kOutcomes] = {
    "refused by the checksum", "refused when loaded", "refused when run",
    "ran with equal outputs",  "ran with others",     "ended the process"};

// What a child tells its parent, in memory that both have.
struct Progress {
  long long at;
  long long counts[kOutcomes];
};

class Random {
 public:
  explicit Random(long long seed) : engine_(static_cast<std::uint64_t>(seed)) {}
  std::size_t below(std::size_t end) { return engine_() % end; }

 private:
  std::mt19937_64 engine_;
};

// One to four changes: bits, bytes, numbers, pieces from elsewhere, an end that is too early.
Bytes mutated(const Bytes& program, Random& random) {
  static constexpr std::uint32_t kNumbers[] = {
      0, 1, 2, 4, 255, 0xffff, 0x10000, 0x3fffffff, 1u << 31, 0x7fffffff, 0xffffffff};
  Bytes changed = program;
  static constexpr int kChanges[] = {1, 1, 1, 2, 4};
  for (int left = kChanges[random.below(5)]; left > 0; --left) {
    const std::size_t at = random.below(changed.size());
    switch (random.below(6)) {
      case 0:
        changed[at] ^= static_cast<unsigned char>(1u << random.below(8));
        break;
      case 1:
        changed[at] = static_cast<unsigned char>(random.below(256));
        break;
      case 2:
      case 3: {  // most of a program's numbers are aligned
        if (changed.size() < 8) break;
        const std::size_t word = at % (changed.size() - 4) / 4 * 4;
        std::uint32_t number;
        std::memcpy(&number, changed.data() + word, 4);
        number = random.below(2) == 0 ? kNumbers[random.below(std::size(kNumbers))]
                                      : number + static_cast<std::uint32_t>(random.below(65)) - 32;
        std::memcpy(changed.data() + word, &number, 4);
        break;
      }
      case 4: {
        const std::size_t width = std::min(random.below(64) + 1, changed.size() - at);
        const std::size_t from = random.below(changed.size() - width + 1);
        std::memmove(changed.data() + at, changed.data() + from, width);
        break;
      }
      default:
        changed.resize(std::max<std::size_t>(at, 1));
        return changed;
    }
  }
  return changed;
}

struct Shape {
  int channels, height, width;
};

// The outputs, of a program that loads and runs.
Outcome run(const Bytes& program, const Shape& shape, bool checked, std::vector<float>* outputs) {
  // A copy of exactly its size, and aligned as a mapped file is.
  void* memory = nullptr;
  if (posix_memalign(&memory, 4096, program.size()) != 0) throw std::bad_alloc();
  const std::unique_ptr<void, decltype(&std::free)> held(memory, &std::free);
  std::memcpy(memory, program.data(), program.size());
  if (checked && l1sparse_program_check(memory, program.size()).code != L1SPARSE_OK) {
    return kUnchecked;
  }
  Module module(std::make_unique<BufferDataLoader>(memory, program.size()));
  if (module.load(Program::Verification::InternalConsistency) != Error::Ok ||
      module.load_forward() != Error::Ok) {
    return kNotLoaded;
  }
  std::vector<float> input(static_cast<std::size_t>(shape.channels) * shape.height * shape.width);
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>(i % 17) / 16.0f;
  const auto result = module.forward(executorch::extension::from_blob(
      input.data(), {1, shape.channels, shape.height, shape.width}));
  if (!result.ok() || result->empty() || !result->at(0).isTensor()) return kNotRun;
  const auto& scores = result->at(0).toTensor();
  if (scores.scalar_type() != executorch::aten::ScalarType::Float) return kOther;
  const float* first = scores.const_data_ptr<float>();
  const std::vector<float> got(first, first + scores.numel());
  const bool same = got.size() == outputs->size() &&
                    std::memcmp(got.data(), outputs->data(), got.size() * sizeof(float)) == 0;
  if (outputs->empty()) *outputs = got;
  return same ? kSame : kOther;
}

void run_from(long long first, long long end, const Bytes& program, const Shape& shape,
              bool checked, std::vector<float>& expected, Progress* progress) {
  for (long long number = first; number < end; ++number) {
    progress->at = number;
    alarm(kSecondsForOne);
    Random random(number);
    Outcome outcome = kNotLoaded;
    try {
      Bytes changed = mutated(program, random);
      while (changed == program) changed = mutated(program, random);
      outcome = run(changed, shape, checked, &expected);
    } catch (const std::bad_alloc&) {  // a program may ask for more than there is
    } catch (const std::length_error&) {
    }
    ++progress->counts[outcome];
  }
  progress->at = end;
}

int usage() {
  std::fprintf(
      stderr,
      "usage: mutated_programs PROGRAM.pte HEIGHT WIDTH CHANNELS FIRST COUNT [--checked]\n");
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 7) return usage();
  std::ifstream file(arguments[1], std::ios::binary);
  const Bytes program{std::istreambuf_iterator<char>(file), {}};
  const Shape shape = {std::atoi(arguments[4]), std::atoi(arguments[2]), std::atoi(arguments[3])};
  const long long first = std::atoll(arguments[5]), end = first + std::atoll(arguments[6]);
  const bool checked = count > 7 && std::strcmp(arguments[7], "--checked") == 0;
  if (program.empty() || end <= first) return usage();

  void* const shared =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 2;
  auto* const progress = new (shared) Progress{};
  for (long long at = first; at < end; at = progress->at) {
    const pid_t child = fork();
    if (child < 0) return 2;
    if (child == 0) {
      std::vector<float> expected;
      run(program, shape, checked, &expected);
      if (expected.empty()) {
        std::fprintf(stderr, "mutated_programs: the program itself does not run\n");
        std::_Exit(3);
      }
      run_from(at, end, program, shape, checked, expected, progress);
      std::_Exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3) return 1;
    if (progress->at == end) break;
    std::printf("mutation %lld ended the process: %s %d\n", progress->at,
                WIFSIGNALED(status) ? "signal" : "status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    std::fflush(stdout);
    ++progress->counts[kDied];
    ++progress->at;
  }
  for (int outcome = 0; outcome < kOutcomes; ++outcome) {
    std::printf("%-24s %lld\n", kOutcomeNames[outcome], progress->counts[outcome]);
  }
  return 0;
}
