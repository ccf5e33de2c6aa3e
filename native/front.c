/* orlop-runtime's front end: hands a command to the daemon that has Python warm, and is the parent of what it starts.
 *
 * The daemon (`orlop serve`) gets the arguments, environment, standard streams and working directory, runs the command
 * in a worker, and asks this process to start programs and to wait for them: containers are thus children of whoever
 * called, with this process's limits, session and control groups. Signals go on to the worker. Whatever keeps the
 * daemon from serving, this process becomes the program `orlop-runtime-cold` beside its own file, with the same
 * arguments, before anything has happened.
 *
 * Socket: SOCK_SEQPACKET, little-endian words, see src/orlop/wire/front.py. The peer must be the same user: of root's
 * own, and of a user the one in that user's $XDG_RUNTIME_DIR. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROTOCOL 0x4f524c31u /* "1LRO"; another number whenever a message changes */
#define DIRECTORY "/run" /* root's; users have their own in $XDG_RUNTIME_DIR */
#define SOCKET "/orlop/runtime.sock"
#define COLD_PROGRAM "orlop-runtime-cold"
#define PATIENCE 3000 /* milliseconds for a daemon to take the command */
#define MOST_FDS 80
#define FIRST_PASSED 3
#define MOST_PASSED 33 /* one more than may be preserved */
#define FAR 256        /* descriptors are copied up there while they change places */
#define NOWHERE 0xffffffffu
enum { TAKEN = 1, COLD = 2, SPAWN = 3, WAIT = 4, EXIT = 5 };
enum { UNMASK = 1 };

extern char **environ;
static char buffer[192 * 1024];
static uint64_t before; /* signal masks are the kernel's own: libc's leave out signals that it uses itself */
static char **arguments;

static int set_mask(uint64_t mask, uint64_t *old) { return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof mask); }
static uint64_t bit(int number) { return 1ull << (number - 1); }

static __attribute__((noreturn)) void cold(void) {
  char path[PATH_MAX + sizeof COLD_PROGRAM];
  ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
  if (n > 0) {
    path[n] = 0;
    char *name = strrchr(path, '/');
    if (name) {
      strcpy(name + 1, COLD_PROGRAM);
      set_mask(before, NULL);
      execve(path, arguments, environ);
      n = errno;
      dprintf(2, "orlop-runtime: cannot execute %s: %s\n", path, strerror((int)n));
    }
  } else dprintf(2, "orlop-runtime: cannot find its own program: /proc is not mounted\n");
  _exit(1);
}

static __attribute__((noreturn)) void lost(const char *why) {
  dprintf(2, "orlop-runtime: %s\n", why);
  _exit(1);
}

/* Out of the way of what is passed on. */
static int far(int fd) {
  if (fd < 0) return -1;
  int high = fcntl(fd, F_DUPFD_CLOEXEC, FAR);
  close(fd);
  return high;
}

static int open_socket(void) {
  const char *path = getenv("ORLOP_RUNTIME_SOCKET"), *directory = geteuid() ? getenv("XDG_RUNTIME_DIR") : DIRECTORY;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct ucred peer;
  socklen_t size = sizeof peer;
  int length = path ? snprintf(address.sun_path, sizeof address.sun_path, "%s", path)
                    : snprintf(address.sun_path, sizeof address.sun_path, "%s" SOCKET, directory ? directory : "");
  if (*address.sun_path != '/' || (size_t)length >= sizeof address.sun_path || (!path && !directory)) return -1;
  /* A full queue is an error at once: EAGAIN. */
  int fd = far(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd < 0) return -1;
  if (connect(fd, (void *)&address, sizeof address) || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
      peer.uid != geteuid() ||
      fcntl(fd, F_SETFL, 0)) {
    close(fd);
    return -1;
  }
  return fd;
}

/* ---- the command */

static int say(int fd, const void *data, size_t length, const int *fds, unsigned count) {
  union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int) * MOST_FDS)]; } rights;
  struct iovec part = {(void *)data, length};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
  if (count) {
    memset(&rights, 0, sizeof rights);
    m.msg_control = rights.space;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
  }
  ssize_t n;
  do n = sendmsg(fd, &m, MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
  return n < 0 ? -1 : 0;
}

static size_t add(size_t at, const char *text) {
  size_t length = strlen(text) + 1;
  if (at + length > sizeof buffer) cold();
  memcpy(buffer + at, text, length);
  return at + length;
}

static uint64_t ignored(void) {
  uint64_t mask = 0;
  uint64_t action[4]; /* the handler first */
  for (int s = 1; s < 65; s++)
    if (!syscall(SYS_rt_sigaction, s, NULL, action, sizeof mask) && action[0] == (uintptr_t)SIG_IGN) mask |= bit(s);
  return mask;
}

/* How many descriptors, from 3 on, the command may want to pass on. With gaps between them it is for a cold start. */
static int passed(void) {
  int wanted = getenv("LISTEN_FDS") != NULL, n = 0;
  for (char **a = arguments; *a && !wanted; a++) wanted = !strncmp(*a, "--preserve-fds", 14) || !strncmp(*a, "-preserve-fds", 13);
  while (wanted && n < MOST_PASSED && fcntl(FIRST_PASSED + n, F_GETFD) >= 0) n++;
  for (int fd = FIRST_PASSED + n, flags; wanted && fd < 1024; fd++)
    if ((flags = fcntl(fd, F_GETFD)) >= 0 && !(flags & FD_CLOEXEC)) cold();
  return n;
}

static void ask(int socket, int extra) {
  int fds[4 + MOST_PASSED] = {0, 1, 2}, count = 4 + extra;
  mode_t mask = umask(0);
  umask(mask);
  for (int i = 0; i < 3; i++)
    if (fcntl(i, F_GETFD) < 0) cold();
  fds[3] = far(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (fds[3] < 0) cold();
  for (int i = 0; i < extra; i++) fds[4 + i] = FIRST_PASSED + i;
  uint32_t head[6] = {PROTOCOL, mask, 0, 0};
  uint64_t quiet = ignored();
  size_t at = sizeof head;
  for (char **a = arguments; *a; a++, head[2]++) at = add(at, *a);
  for (char **e = environ; *e; e++, head[3]++) at = add(at, *e);
  memcpy(head + 4, &quiet, sizeof quiet);
  memcpy(buffer, head, sizeof head);
  if (say(socket, buffer, at, fds, (unsigned)count)) cold();
  close(fds[3]);
}

/* ---- what the worker asks for */

struct message { size_t length; int fds[MOST_FDS]; unsigned count; };

static int hear(int fd, struct message *m) {
  union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int) * MOST_FDS)]; } rights;
  struct iovec part = {buffer, sizeof buffer};
  struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = rights.space, .msg_controllen = sizeof rights.space};
  ssize_t n;
  do n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC); while (n < 0 && errno == EINTR);
  m->count = 0;
  if (n <= 0) return -1;
  m->length = (size_t)n;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
      m->count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      memcpy(m->fds, CMSG_DATA(c), sizeof(int) * m->count);
    }
  if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) lost("the daemon sent more than fits");
  return 0;
}

/* `count` strings from `at` on, behind a NULL-terminated list in `list`; the place after them, 0 if they are not there. */
static size_t strings(char **list, uint32_t count, size_t at, size_t end) {
  for (uint32_t i = 0; i < count; i++) {
    char *stop = at < end ? memchr(buffer + at, 0, end - at) : NULL;
    if (!stop) return 0;
    list[i] = buffer + at;
    at = (size_t)(stop - buffer) + 1;
  }
  list[count] = NULL;
  return at;
}

static char *words[16384];

/* In the child of vfork(2), which has a descriptor table of its own but this process's memory: only system calls. */
static __attribute__((noreturn)) void become(const struct message *m, const uint32_t *targets, char **argv, char **envp, int unmask, volatile int *failed) {
  int high[MOST_FDS];
  for (unsigned i = 0; i < m->count; i++)
    if ((high[i] = fcntl(m->fds[i], F_DUPFD_CLOEXEC, FAR)) < 0) goto out;
  for (unsigned i = 0; i < m->count; i++)
    if (targets[i] != NOWHERE && dup2(high[i], (int)targets[i]) < 0) goto out;
  set_mask(unmask ? 0 : before, NULL);
  if (*words[0]) execve(words[0], argv, envp);
  else syscall(SYS_execveat, high[0], "", argv, envp, AT_EMPTY_PATH);
out:
  *failed = errno;
  _exit(127);
}

/* u32 SPAWN, flags, fds, arguments, variables; u32 target of each fd; strings: program, arguments, variables. An empty
 * program is the first descriptor. */
static int spawn(struct message *m) {
  uint32_t head[5], targets[MOST_FDS];
  volatile int failed = 0;
  if (m->length < sizeof head) return -EBADMSG;
  memcpy(head, buffer, sizeof head);
  size_t at = sizeof head + 4 * (size_t)m->count;
  if (head[2] != m->count || at > m->length || head[3] > 8000 || head[4] > 8000) return -EBADMSG;
  memcpy(targets, buffer + sizeof head, 4 * (size_t)m->count);
  char **argv = words + 2, **envp = argv + head[3] + 1;
  if (!(at = strings(words, 1, at, m->length)) || !(at = strings(argv, head[3], at, m->length)) ||
      !strings(envp, head[4], at, m->length) || (!*words[0] && !m->count))
    return -EBADMSG;
  signal(SIGCHLD, SIG_DFL); /* a caller that ignores it would keep every status from us */
  pid_t pid = vfork();
  if (pid == 0) become(m, targets, argv, envp, head[1] & UNMASK, &failed);
  if (pid < 0) return -errno;
  if (!failed) return pid;
  waitpid(pid, NULL, 0);
  return -failed;
}

static pid_t awaited;

static void answer(int socket, int32_t first, int32_t second) {
  int32_t words_[2] = {first, second};
  if (say(socket, words_, sizeof words_, NULL, 0)) { /* it is gone, which the next look at the socket tells */ }
}

static void look(int socket, int options) {
  int status = 0;
  pid_t pid = waitpid(awaited, &status, options | WNOHANG);
  if (pid == 0 && !(options & WNOHANG)) return; /* SIGCHLD will tell */
  awaited = 0;
  answer(socket, pid < 0 ? -errno : pid, status);
}

static void obey(int socket, struct message *m) {
  uint32_t head[3] = {0};
  memcpy(head, buffer, m->length < sizeof head ? m->length : sizeof head);
  if (head[0] == EXIT) _exit((int)head[1]);
  if (head[0] == COLD) cold();
  if (head[0] == SPAWN) answer(socket, spawn(m), 0);
  else if (head[0] == WAIT && (pid_t)head[1] > 0) {
    awaited = (pid_t)head[1];
    look(socket, (int)head[2]);
  } else lost("the daemon sent what is no request");
  for (unsigned i = 0; i < m->count; i++) close(m->fds[i]);
}

/* ---- */

/* A worker that is ready. Only then are descriptors sent: in the queue of a daemon that does not listen they would keep
 * a pipe open whose reader waits for its end. */
static int taken(int socket) {
  struct pollfd p = {socket, POLLIN, 0};
  struct message m;
  uint32_t head[3];
  int n;
  do n = poll(&p, 1, PATIENCE); while (n < 0 && errno == EINTR);
  if (n <= 0 || hear(socket, &m) || m.length != sizeof head) cold();
  memcpy(head, buffer, sizeof head);
  if (head[0] != TAKEN || head[2] != PROTOCOL) cold();
  int worker = (int)syscall(SYS_pidfd_open, (pid_t)head[1], 0);
  if (worker < 0) cold();
  return worker;
}

/* The worker ended without a word: of a signal that it was sent from here, or of another cause. */
static __attribute__((noreturn)) void ended(int last) {
  if (!last) lost("the daemon ended in the middle of the command");
  signal(last, SIG_DFL);
  kill(getpid(), last);
  set_mask(~bit(last), NULL);
  _exit(128 + last);
}

int main(int argc, char **argv) {
  struct message m;
  struct signalfd_siginfo told;
  int last = 0;
  arguments = argv;
  /* Where it has taken the place of another runtime, it says that one's name. */
  char *called = argc && strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
  if (called && strcmp(called, "orlop-runtime")) setenv("ORLOP_RUNTIME_NAME", called, 1);
  set_mask(~0ull, &before);
  int extra = passed(), socket = argc ? open_socket() : -1;
  if (socket < 0) cold();
  uint64_t heard = ~(before & ~bit(SIGCHLD));
  int signals = far((int)syscall(SYS_signalfd4, -1, &heard, sizeof heard, SFD_CLOEXEC));
  if (signals < 0) cold();
  int worker = taken(socket);
  ask(socket, extra);
  for (;;) {
    struct pollfd p[2] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(p, 2, -1) < 0) continue;
    if (p[0].revents) {
      if (hear(socket, &m)) ended(last);
      obey(socket, &m);
    }
    if (p[1].revents && read(signals, &told, sizeof told) == sizeof told) {
      if (told.ssi_signo == SIGCHLD && awaited) look(socket, 0);
      else last = told.ssi_signo == SIGCHLD ? last : (int)told.ssi_signo;
      syscall(SYS_pidfd_send_signal, worker, told.ssi_signo, NULL, 0);
    }
  }
}
