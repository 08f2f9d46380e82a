// SPDX-License-Identifier: MIT
// A plugin of qemu's (version 7 and later) that counts the instructions a program executes and
// writes the count so far to stderr whenever it asks for its parent process:
//
//   gcc -shared -fPIC tools/count_instructions.c -o count_instructions.so
//   qemu-aarch64 -plugin ./count_instructions.so PROGRAM
//
// A block of instructions that is left halfway counts whole. Threads count together. Debian's qemu
// comes without its header, so what is used of it is declared here.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t PluginId;
struct Block;
typedef void (*BlockTranslated)(PluginId id, struct Block* block);
typedef void (*SystemCall)(PluginId id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2,
                           uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7,
                           uint64_t a8);
enum { kAddToNumber = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(PluginId id, BlockTranslated call);
void qemu_plugin_register_vcpu_syscall_cb(PluginId id, SystemCall call);
void qemu_plugin_register_vcpu_tb_exec_inline(struct Block* block, int operation, void* number,
                                              uint64_t operand);
size_t qemu_plugin_tb_n_insns(const struct Block* block);

enum { kGetParent = 173 };  // on 64-bit Arm

int qemu_plugin_version = 1;

static uint64_t executed;

static void translated(PluginId id, struct Block* block) {
  (void)id;
  qemu_plugin_register_vcpu_tb_exec_inline(block, kAddToNumber, &executed,
                                           qemu_plugin_tb_n_insns(block));
}

static void called(PluginId id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7,
      (void)a8;
  if (number == kGetParent) fprintf(stderr, "instructions %" PRIu64 "\n", executed);
}

int qemu_plugin_install(PluginId id, const void* info, int count, char** arguments) {
  (void)info, (void)count, (void)arguments;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
