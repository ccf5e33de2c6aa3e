/* A plan that is not ready yet when the helper starts comes by a socket (SOCK_SEQPACKET), together with what the helper
 * inherits: one byte, and as descriptors (SCM_RIGHTS) the plan's file and those that fill slots 0, 1, ... So the start
 * of the helper's processes, and the making of the plan, take the same time. */
#ifndef ORLOP_AWAIT_H
#define ORLOP_AWAIT_H
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AWAITED_MAX 65 /* descriptors: the plan, and one for each slot */

/* Puts the plan in the socket's place and the others at `first` and beyond. Ends the process where the parent has given
 * up, which it then knows; -1 and errno where the descriptors can't be had. Nothing may be open beyond `first` - 1 but
 * what is not ours. */
static int await_plan(int where, int first) {
  union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int) * AWAITED_MAX)]; } rights;
  int fds[AWAITED_MAX], count;
  char byte;
  ssize_t n;
  struct iovec part = {&byte, 1};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = rights.space, .msg_controllen = sizeof rights.space};
  if (syscall(SYS_close_range, first, ~0U, 0)) return -1; /* so that the new ones have the lowest numbers, in order */
  do n = recvmsg(where, &m, MSG_CMSG_CLOEXEC); while (n < 0 && errno == EINTR);
  struct cmsghdr *c = n == 1 ? CMSG_FIRSTHDR(&m) : NULL;
  if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) _exit(1);
  if (m.msg_flags & MSG_CTRUNC) { errno = EMFILE; return -1; }
  count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)count);
  /* Each has at least the number that it is to get, and those below have moved on already. */
  for (int i = 0; i < count; i++)
    if (fds[i] != (i ? first + i - 1 : where) && dup2(fds[i], i ? first + i - 1 : where) < 0) return -1;
  return 0;
}
#endif
