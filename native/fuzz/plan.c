/* Feeds plans to the helper's decoder, whose operations here do nothing but look at what they were given.
 *
 * libFuzzer:  clang -g -fsanitize=fuzzer,address,undefined -DLIBFUZZER -o fuzz-plan native/fuzz/plan.c
 * otherwise:  cc -g -fsanitize=address,undefined -o fuzz-plan native/fuzz/plan.c; ./fuzz-plan FILE|DIRECTORY... */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* The helper leaves its lists to exec and exit; here each input's are freed after it. */
static void *lists[1 << 16];
static unsigned lists_count;
static void *list_of(size_t count, size_t size) {
  if (lists_count == sizeof lists / sizeof *lists) return NULL;
  return lists[lists_count++] = calloc(count, size);
}
#define calloc list_of
#include "../reader.h"
#undef calloc
#include "../ops.h"

static volatile unsigned sink;
static int look(const void *arguments, size_t size) {
  for (size_t i = 0; i < size; i++) sink += ((const uint8_t *)arguments)[i];
  return 0;
}
#define STUB(name) static int op_##name(const struct name *a) { return look(a, sizeof *a); }
EACH_OP(STUB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct reader r = {data, data + size, 0};
  struct header h = take_header(&r);
  for (uint32_t stage = 0; stage < h.stages && !r.bad; stage++) {
    uint32_t count = take_u32(&r);
    for (uint32_t i = 0; i < count && !r.bad; i++) {
      struct op op = take_op(&r);
      if (!r.bad) {
        look(op.body.at, (size_t)(op.body.end - op.body.at));
        sink += (unsigned)perform(op.code, &op.body);
      }
    }
  }
  while (lists_count) free(lists[--lists_count]);
  return 0;
}

#include "fuzz.h"
#ifndef LIBFUZZER
/* Without arguments: samples on standard input, each with its length before it (u32). */
int main(int argc, char **argv) {
  uint32_t size;
  if (argc > 1) return feed_all(argc - 1, argv + 1);
  for (; fread(&size, sizeof size, 1, stdin) == 1; samples++) {
    uint8_t *data = malloc(size ? size : 1); /* its own block, so that a step beyond its end is seen */
    if (!data || fread(data, 1, size, stdin) != size) return 2;
    LLVMFuzzerTestOneInput(data, size);
    free(data);
  }
  printf("%u\n", samples);
  return 0;
}
#endif
