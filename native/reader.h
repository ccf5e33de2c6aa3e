/* Takes a plan apart. Every length is checked against what is there; what is wrong makes the reader `bad`, and all that
 * is taken afterwards is empty. Nothing is copied: strings and bytes point into the plan.
 *
 *   "ORLP"  u32 version  u32 inherited descriptors  u32 stages
 *   a stage:      u32 operations
 *   an operation: u16 code  u8 skip mask  u8 zero  u32 length of what follows: its fields in the table's order */
#ifndef ORLOP_READER_H
#define ORLOP_READER_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#undef stdin /* musl: a macro; here the field of an operation */

struct bytes { const uint8_t *data; uint32_t length; };
struct words { const uint8_t *data; uint32_t count; };
struct reader { const uint8_t *at, *end; int bad; };
struct header { uint32_t inherited, stages; };
struct op { uint16_t code; uint8_t skip; struct reader body; };

static const uint8_t *take(struct reader *r, size_t length) {
  static const uint8_t zeros[8];
  if (r->bad || (size_t)(r->end - r->at) < length) { r->bad = 1; return zeros; }
  r->at += length;
  return r->at - length;
}
static uint16_t take_u16(struct reader *r) { uint16_t v; memcpy(&v, take(r, 2), 2); return v; }
static uint32_t take_u32(struct reader *r) { uint32_t v; memcpy(&v, take(r, 4), 4); return v; }
static int32_t take_i32(struct reader *r) { return (int32_t)take_u32(r); }
static uint64_t take_u64(struct reader *r) { uint64_t v; memcpy(&v, take(r, 8), 8); return v; }
static const char *take_str(struct reader *r) {
  uint32_t n = take_u32(r);
  if (r->bad || (size_t)(r->end - r->at) <= n || r->at[n] || memchr(r->at, 0, n)) { r->bad = 1; return ""; }
  return (const char *)take(r, (size_t)n + 1);
}
static struct bytes take_bytes(struct reader *r) {
  uint32_t n = take_u32(r);
  const uint8_t *p = take(r, n);
  return (struct bytes){p, r->bad ? 0 : n};
}
static struct words take_words(struct reader *r) {
  uint32_t n = take_u32(r);
  const uint8_t *p = take(r, (size_t)n * 4);
  return (struct words){p, r->bad ? 0 : n};
}
static inline uint32_t word(struct words w, uint32_t i) { uint32_t v; memcpy(&v, w.data + 4 * (size_t)i, 4); return v; }
/* A list of strings becomes a NULL-terminated array. It is freed by exec or exit: each stage makes only a few. */
static char **take_strs(struct reader *r) {
  static char *none[1];
  uint32_t n = take_u32(r);
  if (r->bad || n > (size_t)(r->end - r->at) / 5) { r->bad = 1; return none; }
  char **list = calloc((size_t)n + 1, sizeof *list);
  if (!list) { r->bad = 1; return none; }
  for (uint32_t i = 0; i < n; i++) list[i] = (char *)take_str(r);
  return list;
}
static int finished(struct reader *r) { return !r->bad && r->at == r->end; }

static struct header take_header(struct reader *r) {
  if (memcmp(take(r, 4), "ORLP", 4) || take_u32(r) != 1 /* version */) r->bad = 1;
  uint32_t inherited = take_u32(r), stages = take_u32(r);
  return (struct header){inherited, stages};
}
static struct op take_op(struct reader *r) {
  struct op op = {.code = take_u16(r), .skip = *take(r, 1)};
  take(r, 1);
  uint32_t size = take_u32(r);
  const uint8_t *at = take(r, size);
  op.body = (struct reader){at, at + (r->bad ? 0 : size), r->bad};
  return op;
}

#endif
