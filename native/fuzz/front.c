/* Feeds the front end what comes to it from the daemon, and what it packs from its caller. The first byte says which:
 * requests (bytes 0 to 127: so many descriptors come along; each request behind a length of two bytes), the daemon's
 * first word, or arguments and environment. Nothing is started: where it would fork, the lists for execve are walked.
 *
 * libFuzzer:  clang -g -fsanitize=fuzzer,address,undefined -DLIBFUZZER -o fuzz-front native/fuzz/front.c
 * otherwise:  cc -g -fsanitize=address,undefined -o fuzz-front native/fuzz/front.c; ./fuzz-front FILE|DIRECTORY... */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static jmp_buf left_at;
static _Noreturn void leave_to_harness(void) { longjmp(left_at, 1); }
static int not_executed(const char *path, char **argv, char **envp) {
  (void)path, (void)argv, (void)envp;
  leave_to_harness();
}
static int would_fork(void);
static int silent(int fd, const char *format, ...) { (void)fd, (void)format; return 0; }
#define _exit(code) leave_to_harness()
#define execve not_executed
#define vfork would_fork
#define dprintf silent
#define main front_main
#include "../front.c"
#undef main
#undef _exit
#undef execve
#undef vfork
#undef dprintf

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

static size_t walk(char **list) {
  size_t n = 0;
  for (; list[n]; n++) MUST(list[n] >= buffer && list[n] + strlen(list[n]) < buffer + sizeof buffer);
  return n;
}

/* What the child would hand to execve lies within the message, and both lists end. */
static int would_fork(void) {
  uint32_t head[5];
  memcpy(head, buffer, sizeof head);
  MUST(walk(words) == 1 && walk(words + 2) == head[3] && walk(words + 2 + head[3] + 1) == head[4]);
  errno = EAGAIN;
  return -1;
}

static void discard(int fd) {
  char sink[64];
  while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0) {}
}

static void requests(int daemon, int socket, const uint8_t *data, size_t size, unsigned count) {
  int fds[MOST_FDS], null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (unsigned i = 0; i < MOST_FDS; i++) fds[i] = null;
  count = count < MOST_FDS ? count : MOST_FDS;
  while (size >= 2) {
    size_t length = data[0] | (size_t)data[1] << 8;
    data += 2, size -= 2;
    if (length > size) length = size;
    if (!length || say(daemon, data, length, fds, count)) break;
    data += length, size -= length;
    static struct message m;
    if (setjmp(left_at)) break;
    MUST(!hear(socket, &m) && m.length == length && m.count == count);
    obey(socket, &m);
    discard(daemon);
  }
  close(null);
}

static void first_word(int daemon, int socket, const uint8_t *data, size_t size) {
  int worker;
  if (say(daemon, data, size, NULL, 0) || setjmp(left_at)) return;
  worker = taken(socket);
  MUST(size == 12 && worker >= 0);
  close(worker);
}

/* Words, each ended by a NUL; the first half are arguments. What is sent has them all, and nothing else. */
static void command(int daemon, int socket, const uint8_t *data, size_t size) {
  static char *list[8200], text[8193], sent[sizeof buffer];
  char *none[] = {NULL}, **before_ = environ;
  uint32_t head[6], n = 0;
  if (size > 8192) return;
  memcpy(text, data, size);
  text[size] = 0;
  for (size_t at = 0; at < size; at += strlen(text + at) + 1) list[n++] = text + at;
  list[n] = NULL;
  arguments = list + n / 2;
  environ = none;
  if (!setjmp(left_at)) {
    ask(socket, passed());
    ssize_t got = recv(daemon, sent, sizeof sent, MSG_DONTWAIT);
    size_t at = sizeof head;
    memcpy(head, sent, sizeof head);
    MUST(got >= (ssize_t)sizeof head && head[0] == PROTOCOL && head[2] == n - n / 2 && !head[3]);
    for (char **a = arguments; *a; at += strlen(*a++) + 1) MUST(!strcmp(sent + at, *a));
    MUST(at == (size_t)got);
  }
  environ = before_;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  int ends[2];
  if (!size) return 0;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) abort();
  awaited = 0;
  if (*data < 128) requests(ends[0], ends[1], data + 1, size - 1, *data);
  else if (*data < 192) first_word(ends[0], ends[1], data + 1, size - 1);
  else command(ends[0], ends[1], data + 1, size - 1);
  close(ends[0]);
  close(ends[1]);
  syscall(SYS_close_range, FAR, ~0u, 0); /* what a jump has left open */
  return 0;
}

#include "fuzz.h"
#ifndef LIBFUZZER
int main(int argc, char **argv) { return feed_all(argc - 1, argv + 1); }
#endif
