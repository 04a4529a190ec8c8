// A plugin for QEMU that counts the instructions of a program, and tells them at its end on standard error.
// What it uses of QEMU's plugin interface (version 1) is declared here: Debian has no header for it.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

struct qemu_plugin_tb;
int qemu_plugin_version = 1;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*callback)(uint64_t, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb * block);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb * block, int operation, void * counter, uint64_t value);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*callback)(uint64_t, void *), void * data);

static uint64_t num_instructions;

static void translated(uint64_t id, struct qemu_plugin_tb * block) {
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0 /* add */, &num_instructions, qemu_plugin_tb_n_insns(block));
}

static void ended(uint64_t id, void * data) {
    fprintf(stderr, "%" PRIu64 "\n", num_instructions);
}

int qemu_plugin_install(uint64_t id, const void * info, int argc, char ** argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
