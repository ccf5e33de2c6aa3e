/* orlop-launch: performs a plan, operation by operation, and decides nothing.
 *
 * fd 0-2: the container's standard streams; 3: the plan, or a socket by which it comes; 4: control socket
 * (SOCK_SEQPACKET); 5: with the argument "report" a pipe that gets the child's pid; 6...: inherited descriptors, which
 * fill slots 0, 1, ...  All of them are close-on-exec here, and what else is open is not ours and closed.
 *
 * It runs as root on behalf of a plan that its parent compiled; the plan is trusted, its bytes are not: every length
 * is checked. What is not trusted at all is the container's file system: a path beneath a root is resolved by
 * openat2(2) with RESOLVE_IN_ROOT, one descriptor is held from resolution to use, and what a mount stands on is made
 * component by component. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 64
#define control slots[SLOTS]
#define report slots[SLOTS + 1]
#define FIRST_INHERITED 6
enum { CLONED = 1, SYNC = 2, FAILED = 3 };

static int slots[SLOTS + 2]; /* and beyond those of the plan: the helper's own */
static uint32_t stage, op_index;
static int started = -1;    /* the fifo of a container that `start` has let go: there it hears what fails */
static int pivoted, absent; /* the root is the container's; the operation named a slot that is empty */
static mode_t mask = 022;   /* what the program gets; during set-up it is 0, so that modes are meant as written */
static char detail[512];

#include "await.h"
#include "reader.h"
#include "ops.h"

/* ---- talking to the parent */

static int tell(uint32_t kind, int32_t value, const char *text, const int *fds, unsigned count) {
  uint32_t head[3] = {kind, stage, op_index};
  struct iovec parts[3] = {{head, sizeof head}, {&value, sizeof value}, {(void *)text, strlen(text)}};
  union { struct cmsghdr align; char space[CMSG_SPACE(sizeof(int) * SLOTS)]; } rights;
  struct msghdr m = {.msg_iov = parts, .msg_iovlen = 3};
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
  do n = started < 0 ? sendmsg(control, &m, MSG_NOSIGNAL) : writev(started, parts, 3); while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : 0;
}

static __attribute__((noreturn)) void fail(int error) {
  tell(FAILED, error, detail, NULL, 0);
  _exit(1);
}

/* ---- descriptors and paths */

static int slot_ok(int slot) { return slot >= 0 && slot < SLOTS; }
static int slot_fd(int slot) {
  int fd = slot_ok(slot) ? slots[slot] : -1;
  if (fd < 0) { absent |= slot_ok(slot); errno = EBADF; }
  return fd;
}
static int put(int slot, int fd) { /* takes over fd */
  if (fd < 0) return -errno;
  if (!slot_ok(slot)) { close(fd); return -EBADMSG; }
  if (slots[slot] >= 0) close(slots[slot]);
  slots[slot] = fd;
  return 0;
}
/* An operation whose slot was left empty by a skipped one does nothing; but where that would leave the program outside
 * of what it is to be in, it fails. */
#define MUST(slot) do { if (slot_fd(slot) < 0) { absent = 0; return -EBADF; } } while (0)
#define NEED(slot) do { if (!slot_ok(slot)) return -EBADMSG; if (slots[slot] < 0) return 0; } while (0)

static int done(long result) { return result < 0 ? -errno : 0; }

static int resolve(int at, const char *path, uint64_t flags, uint64_t mode) {
  struct open_how how = {.flags = flags | O_CLOEXEC, .mode = flags & O_CREAT ? mode : 0};
  int dir = at < 0 ? AT_FDCWD : slot_fd(at), fd;
  if (dir == -1) return -1;
  if (at >= 0) how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  /* /proc/self/fd/N of this process may lead back to the host: no link of an image may use it. */
  else if (pivoted) how.resolve = RESOLVE_NO_MAGICLINKS;
  /* A rename elsewhere on the file system makes a walk with ".." uncertain; the kernel asks to try again. */
  for (int i = 0; i < 64; i++) {
    fd = (int)syscall(SYS_openat2, dir, *path ? path : "/", &how, sizeof how);
    if (fd >= 0 || errno != EAGAIN) break;
  }
  if (fd < 0) snprintf(detail, sizeof detail, "%.400s", path);
  return fd;
}

/* The directory at the first `length` bytes of a path. What is missing is made, the last component with `mode` and
 * noted in `made`. Each is made in the descriptor of the one before it, which the kernel resolved inside the root: a
 * link planted meanwhile is followed inside the root or not at all. A link to what is not there has that made. Mostly
 * the one above the last is there: the walk begins with it, else at the top. */
static int directory(int at, const char *path, size_t length, mode_t mode, int *made, int depth) {
  char text[PATH_MAX], link[PATH_MAX];
  size_t start, end, above = length;
  if (strlen(path) >= sizeof text) { errno = ENAMETOOLONG; return -1; }
  for (int named = 0; above && (path[above - 1] != '/' || !named); above--) named |= path[above - 1] != '/';
  snprintf(text, sizeof text, "%.*s", (int)above, path);
  int fd = above > 1 ? resolve(at, text, O_PATH | O_DIRECTORY, 0) : -1, next;
  if (fd < 0) above = 0, fd = resolve(at, *path == '/' ? "/" : ".", O_PATH | O_DIRECTORY, 0);
  for (end = above; fd >= 0; close(fd), fd = next) {
    start = end + strspn(path + end, "/");
    if (start >= length) return fd;
    end = start + strcspn(path + start, "/");
    memcpy(text, path, end);
    text[end] = 0;
    next = resolve(at, text, O_PATH | O_DIRECTORY, 0);
    if (next >= 0 || errno != ENOENT) continue;
    int last = end + strspn(path + end, "/") >= length;
    if (!mkdirat(fd, text + start, last ? mode : 0755)) *made |= last;
    else if (errno != EEXIST) continue;
    next = resolve(at, text, O_PATH | O_DIRECTORY, 0);
    if (next >= 0 || errno != ENOENT || depth > 7) continue;
    ssize_t n = readlinkat(fd, text + start, link, sizeof link);
    if (n <= 0) continue;
    close(fd);
    int whole = snprintf(text, sizeof text, "%.*s%.*s%s", *link == '/' ? 0 : (int)start, path, (int)n, link, path + end);
    if (whole >= (int)sizeof text) { errno = ENAMETOOLONG; return -1; }
    return directory(at, text, (size_t)whole - (strlen(path) - length), mode, made, depth + 1);
  }
  return fd;
}
/* The directory that holds the last component of a path, which goes to `name`. */
static int parent_of(int at, const char *path, char *name) {
  size_t end = strlen(path), start;
  int made;
  while (end && path[end - 1] == '/') end--;
  for (start = end; start && path[start - 1] != '/'; start--) {}
  if (end - start > NAME_MAX) { errno = ENAMETOOLONG; return -1; }
  memcpy(name, path + start, end - start);
  name[end - start] = 0;
  if (!*name || !strcmp(name, "..") || !strcmp(name, ".")) { errno = EINVAL; return -1; }
  return directory(at, path, start, 0755, &made, 0);
}

static int proc_fd(int fd, char *text) { return snprintf(text, 40, "/proc/self/fd/%d", fd); }
static int is_directory(int fd) { struct stat s; return !fstat(fd, &s) && S_ISDIR(s.st_mode); }
static int on_magic(int fd, uint64_t magic) {
  struct statfs s;
  if (!magic) return 0;
  if (fstatfs(fd, &s)) return -errno;
  if ((uint64_t)s.f_type == magic) return 0;
  snprintf(detail, sizeof detail, "not on the file system that it must be on (found type 0x%lx)", (long)s.f_type);
  return -EXDEV;
}

/* In a plan, O_* are x86-64's; arm64 has some of them elsewhere. */
static uint32_t native(uint32_t flags) {
#ifdef __aarch64__
  const uint32_t differ = 040000 | 0200000 | 0400000;
  return (flags & ~differ) | (flags & 040000 ? O_DIRECT : 0) | (flags & 0200000 ? O_DIRECTORY : 0) | (flags & 0400000 ? O_NOFOLLOW : 0);
#else
  return flags;
#endif
}
static int op_Open(const struct Open *a) {
  int fd = resolve(a->at, a->path, native(a->flags), a->mode), e;
  if (fd >= 0 && (e = on_magic(fd, a->magic))) { close(fd); return e; }
  return put(a->slot, fd);
}
static int op_Close(const struct Close *a) { NEED(a->slot); close(slots[a->slot]); slots[a->slot] = -1; return 0; }
static int op_Dup(const struct Dup *a) {
  NEED(a->slot);
  /* The number may be one of the helper's: that descriptor moves out of the way. */
  for (int i = 0; i < SLOTS + 2; i++)
    if (slots[i] == a->fd && (slots[i] = fcntl(a->fd, F_DUPFD_CLOEXEC, 128)) < 0) return -errno;
  return done(dup2(slots[a->slot], a->fd));
}
/* Always at exec: to close the control socket would look like success. */
static int op_CloseRange(const struct CloseRange *a) {
  return done(syscall(SYS_close_range, a->first, a->last, a->flags | 4 /* CLOSE_RANGE_CLOEXEC */));
}
static int op_Socket(const struct Socket *a) { return put(a->slot, socket(a->domain, a->type | SOCK_CLOEXEC, a->protocol)); }
static int op_SendFd(const struct SendFd *a) {
  NEED(a->socket); NEED(a->fd);
  char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
  struct iovec part = {(void *)a->text.data, a->text.length};
  struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &slots[a->fd], sizeof(int));
  return done(sendmsg(slots[a->socket], &m, MSG_NOSIGNAL));
}
static int op_Connect(const struct Connect *a) {
  struct sockaddr_un u = {.sun_family = AF_UNIX};
  if (strlen(a->path) >= sizeof u.sun_path) return -ENAMETOOLONG;
  strcpy(u.sun_path, a->path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (void *)&u, sizeof u)) { int e = errno; close(fd); return -e; }
  return put(a->slot, fd);
}

/* ---- namespaces and processes */

static int op_Setns(const struct Setns *a) {
  MUST(a->slot);
  if (setns(slots[a->slot], (int)a->nstype)) return -errno;
  pivoted |= !!(a->nstype & CLONE_NEWNS);
  return 0;
}
static int op_Unshare(const struct Unshare *a) { return done(unshare((int)a->flags)); }
static int op_Setsid(const struct Setsid *a) { (void)a; return getsid(0) == getpid() ? 0 : done(setsid()); }
static int op_Keyring(const struct Keyring *a) { return done(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, a->name)); }

struct clone_arguments {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
static int op_Clone(const struct Clone *a) {
  struct clone_arguments c = {.flags = a->flags | CLONE_PARENT};
  int told[2], child;
  char text[16];
  if (slot_ok(a->cgroup)) { MUST(a->cgroup); c.flags |= 0x200000000ULL /* CLONE_INTO_CGROUP */; c.cgroup = (uint64_t)slots[a->cgroup]; }
  if (pipe2(told, O_CLOEXEC)) return -errno;
  /* With CLONE_PARENT the child's exit signal is the caller's own. */
  long pid = syscall(SYS_clone3, &c, sizeof c);
  if (pid < 0 && errno == ENOSYS && !c.cgroup && c.flags < 0x100000000ULL && !(c.flags & 0xff))
    pid = syscall(SYS_clone, (unsigned long)c.flags | SIGCHLD, 0, 0, 0, 0);
  if (pid < 0) return -errno;
  if (pid == 0) { /* goes on when its number is known, and not at all when the cloner was killed before it said it */
    close(told[1]);
    if (c.cgroup) close(slots[a->cgroup]), slots[a->cgroup] = -1; /* a directory of the host's */
    if (read(told[0], text, 1) != 1) _exit(1);
    return close(told[0]);
  }
  child = snprintf(text, sizeof text, "%ld\n", pid);
  if (tell(CLONED, (int32_t)pid, "", NULL, 0) || (report >= 0 && write(report, text, (size_t)child) != child)) _exit(1);
  _exit(write(told[1], "", 1) != 1);
}

/* ---- identity of the host */

static int op_SetHostname(const struct SetHostname *a) { return done(sethostname(a->name, strlen(a->name))); }
static int op_SetDomainname(const struct SetDomainname *a) { return done(setdomainname(a->name, strlen(a->name))); }
static int op_LinkUp(const struct LinkUp *a) {
  struct ifreq r = {0};
  if (strlen(a->name) >= sizeof r.ifr_name) return -ENAMETOOLONG;
  strcpy(r.ifr_name, a->name);
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) return -errno;
  int e = done(ioctl(s, SIOCGIFFLAGS, &r));
  r.ifr_flags |= IFF_UP;
  if (!e) e = done(ioctl(s, SIOCSIFFLAGS, &r));
  close(s);
  return e;
}

/* ---- files */

static int own(int fd, uint32_t uid, uint32_t gid) {
  return uid == (uint32_t)-1 && gid == (uint32_t)-1 ? 0 : done(fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
}
static int op_Mkdir(const struct Mkdir *a) {
  int made = 0, fd = resolve(a->at, a->path, O_PATH | O_DIRECTORY, 0);
  if (fd < 0 && errno == ENOENT) fd = directory(a->at, a->path, strlen(a->path), a->mode & 07777, &made, 0);
  if (fd < 0) return -errno;
  int e = made ? own(fd, a->uid, a->gid) : 0;
  close(fd);
  return e;
}
/* An empty file, with missing parents; a link to what is not there has that made. */
static int empty_file(int at, const char *path, uint64_t flags, int depth) {
  char name[NAME_MAX + 1], link[PATH_MAX], text[PATH_MAX];
  int dir = parent_of(at, path, name);
  if (dir < 0) return -1;
  int fd = resolve(at, path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | flags, 0644);
  ssize_t n = fd < 0 && errno == ENOENT && depth < 8 ? readlinkat(dir, name, link, sizeof link) : 0;
  close(dir);
  if (n <= 0) { if (n < 0) errno = ENOENT; return fd; }
  int whole = snprintf(text, sizeof text, "%.*s%.*s", *link == '/' ? 0 : (int)(strlen(path) - strlen(name)), path, (int)n, link);
  if (whole >= (int)sizeof text) { errno = ENAMETOOLONG; return -1; }
  return empty_file(at, text, flags, depth + 1);
}
static int op_Target(const struct Target *a) {
  int like = slot_fd(a->like), made, e;
  if (absent) return 0;
  int wanted = like < 0 || is_directory(like);
  int fd = resolve(a->at, a->path, O_PATH | native(a->flags), 0);
  if (fd < 0 && errno == ENOENT && wanted) fd = directory(a->at, a->path, strlen(a->path), 0755, &made, 0);
  else if (fd < 0 && errno == ENOENT) fd = empty_file(a->at, a->path, native(a->flags), 0);
  if (fd < 0) return -errno;
  e = is_directory(fd) == wanted ? 0 : wanted ? -ENOTDIR : -EISDIR;
  close(fd);
  return e;
}
static int op_Mknod(const struct Mknod *a) {
  char name[NAME_MAX + 1];
  struct stat s;
  dev_t device = makedev(a->major, a->minor);
  int dir = parent_of(a->at, a->path, name), fd = -1, e = 0;
  if (dir < 0) return -errno;
  if (!mknodat(dir, name, a->mode, device)) {
    fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    e = fd < 0 ? -errno : own(fd, a->uid, a->gid);
  } else if (errno != EEXIST || fstatat(dir, name, &s, AT_SYMLINK_NOFOLLOW)) e = -errno;
  else if ((s.st_mode & S_IFMT) != (a->mode & S_IFMT) || (s.st_rdev != device && !S_ISFIFO(s.st_mode))) e = -EEXIST;
  if (fd >= 0) close(fd);
  close(dir);
  return e;
}
static int op_Symlink(const struct Symlink *a) {
  char name[NAME_MAX + 1], old[PATH_MAX] = "";
  int dir = parent_of(a->at, a->path, name), e;
  if (dir < 0) return -errno;
  e = done(symlinkat(a->target, dir, name));
  if (e == -EEXIST && readlinkat(dir, name, old, sizeof old - 1) > 0 && !strcmp(old, a->target)) e = 0;
  close(dir);
  return e;
}
static int op_WriteFile(const struct WriteFile *a) {
  /* What must be a kernel's file, yet is a fifo or a terminal, must not make the helper wait or get it a terminal. */
  int fd = resolve(a->at, a->path, O_WRONLY | native(a->flags) | (a->magic ? O_NONBLOCK | O_NOCTTY : 0), 0644);
  if (fd < 0) return -errno;
  int e = on_magic(fd, a->magic);
  if (!e) {
    ssize_t n = write(fd, a->data.data, a->data.length);
    e = n < 0 ? -errno : (size_t)n == a->data.length ? 0 : -EIO;
  }
  close(fd);
  return e;
}
static int op_Chdir(const struct Chdir *a) {
  char where[PATH_MAX];
  int fd = resolve(a->at, a->path, O_PATH | O_DIRECTORY, 0);
  detail[0] = 0; /* the path is in the field's name */
  if (fd < 0) return -errno;
  int e = done(fchdir(fd));
  close(fd);
  if (e) return e;
  /* A directory outside the root has a name that begins with "(unreachable)": a way out of the container. */
  if (pivoted && (syscall(SYS_getcwd, where, sizeof where) < 0 || where[0] != '/')) {
    snprintf(detail, sizeof detail, "the working directory is outside the container");
    return -EPERM;
  }
  return 0;
}
static int op_Umask(const struct Umask *a) { mask = a->mask & 0777; return 0; }
static int op_Chown(const struct Chown *a) { NEED(a->slot); return own(slots[a->slot], a->uid, a->gid); }

/* ---- mounts */

static int op_Mount(const struct Mount *a) {
  char path[40];
  int fd = resolve(a->at, a->target, O_PATH, 0);
  if (fd < 0) return -errno;
  proc_fd(fd, path);
  int e = done(mount(a->source, path, *a->fstype ? a->fstype : NULL, a->flags, *a->data ? a->data : NULL));
  close(fd);
  return e;
}
static int op_Fsopen(const struct Fsopen *a) { return put(a->slot, (int)syscall(SYS_fsopen, a->fstype, 1 /* FSOPEN_CLOEXEC */)); }
static int context_error(int fd, int error) { /* the kernel's own words: lines such as "e overlay: ..." */
  size_t used = strlen(strcpy(detail, ""));
  for (ssize_t n; used < 400 && (n = read(fd, detail + used, sizeof detail - used - 3)) > 2;) {
    char *line = detail + used;
    line[n] = 0;
    memmove(line, line + 2, (size_t)n - 1);
    line[strcspn(line, "\n")] = 0;
    used += strlen(strcat(line, "; "));
  }
  if (used) detail[used - 2] = 0;
  return -error;
}
static int op_Fsconfig(const struct Fsconfig *a) {
  NEED(a->slot);
  long r = syscall(SYS_fsconfig, slots[a->slot], a->command, a->command == 6 ? NULL : a->key, a->command == 1 ? a->value : NULL, 0);
  return r < 0 ? context_error(slots[a->slot], errno) : 0;
}
static int op_Fsmode(const struct Fsmode *a) {
  struct stat s = {0}; char text[16];
  int fd = resolve(a->at, a->path, O_PATH | O_DIRECTORY, 0);
  if (fd < 0) return errno == ENOENT ? 0 : -errno;
  int e = done(fstat(fd, &s));
  close(fd);
  snprintf(text, sizeof text, "%o", s.st_mode & 07777);
  return e ? e : op_Fsconfig(&(struct Fsconfig){a->slot, 1, "mode", text});
}
static int op_Fsmount(const struct Fsmount *a) {
  NEED(a->context);
  int fd = (int)syscall(SYS_fsmount, slots[a->context], 1 /* FSMOUNT_CLOEXEC */, a->attributes);
  return fd < 0 ? context_error(slots[a->context], errno) : put(a->slot, fd);
}
static int op_OpenTree(const struct OpenTree *a) {
  if (a->at < 0 && !pivoted) return put(a->slot, (int)syscall(SYS_open_tree, AT_FDCWD, a->path, a->flags | O_CLOEXEC));
  int fd = *a->path ? resolve(a->at, a->path, O_PATH | (a->flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0), 0) : slot_fd(a->at);
  if (fd < 0) return -errno;
  int tree = (int)syscall(SYS_open_tree, fd, "", a->flags | O_CLOEXEC | AT_EMPTY_PATH), e = errno;
  if (*a->path) close(fd);
  errno = e;
  return put(a->slot, tree);
}
struct attributes { uint64_t set, clear, propagation, userns; };
static int op_MountSetattr(const struct MountSetattr *a) {
  NEED(a->slot);
  struct attributes m = {a->set, a->clear, a->propagation, 0};
  if (slot_ok(a->userns)) { if (slots[a->userns] < 0) return 0; m.userns = (uint64_t)slots[a->userns]; }
  long r = syscall(442 /* mount_setattr */, slots[a->slot], "", a->flags | AT_EMPTY_PATH, &m, sizeof m);
  if (!r || errno != ENOSYS || m.userns || a->flags & 0x8000 /* AT_RECURSIVE */) return done(r);
  /* Linux before 5.12 has mount(2), whose first four flags are the same and whose others are kept as they are. */
  char path[40];
  struct statfs f;
  proc_fd(slots[a->slot], path);
  if (a->propagation) return done(mount(NULL, path, NULL, a->propagation, NULL));
  if ((a->set | (a->clear & ~0x200000ULL /* NOSYMFOLLOW: always cleared by it */)) & ~15ULL || fstatfs(slots[a->slot], &f)) return -ENOSYS;
  unsigned long now = (unsigned long)f.f_flags, kept = now & (15 | MS_NOATIME | MS_NODIRATIME) & ~a->clear;
  return done(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | kept | a->set | (now & 4096 /* ST_RELATIME */ ? MS_RELATIME : 0), NULL));
}
static int op_MoveMount(const struct MoveMount *a) {
  NEED(a->slot);
  int fd = *a->target ? resolve(a->at, a->target, O_PATH, 0) : slot_fd(a->at);
  if (fd < 0) return -errno;
  int e = done(syscall(SYS_move_mount, slots[a->slot], "", fd, "", 0x44 /* MOVE_MOUNT_{F,T}_EMPTY_PATH */));
  if (*a->target) close(fd);
  return e;
}
static int op_Propagation(const struct Propagation *a) {
  char path[40];
  int fd = resolve(a->at, a->path, O_PATH, 0);
  if (fd < 0) return -errno;
  proc_fd(fd, path);
  int e = done(mount(NULL, a->at < 0 ? a->path : path, NULL, a->flags, NULL));
  close(fd);
  return e;
}
static int empty_directory(void) {
  int context = (int)syscall(SYS_fsopen, "tmpfs", 1), fd = -1;
  if (context >= 0 && !syscall(SYS_fsconfig, context, 0, "ro", NULL, 0) && !syscall(SYS_fsconfig, context, 6, NULL, NULL, 0))
    fd = (int)syscall(SYS_fsmount, context, 1, 1 | 2 | 4 | 8 /* MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC */);
  int e = errno;
  if (context >= 0) close(context);
  errno = e;
  return fd;
}
static int empty = -1; /* what masks directories: the first one is attached itself, the others are copies of it */
static int op_Mask(const struct Mask *a) {
  struct stat s;
  int fd = resolve(a->at, a->path, O_PATH, 0), cover, e;
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
  if (is_directory(fd)) cover = empty < 0 ? (empty = empty_directory()) : (int)syscall(SYS_open_tree, empty, "", 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC | AT_EMPTY_PATH);
  /* An image or a mount may have put something else where the null device was looked for. */
  else if (fstat(slot_fd(a->null), &s) || !S_ISCHR(s.st_mode) || s.st_rdev != makedev(1, 3)) { cover = -1; errno = ENODEV; absent = 0; }
  else cover = (int)syscall(SYS_open_tree, slots[a->null], "", 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC | AT_EMPTY_PATH);
  e = cover < 0 ? -errno : done(syscall(SYS_move_mount, cover, "", fd, "", 0x44));
  if (cover >= 0 && cover != empty) close(cover);
  close(fd);
  return e;
}
static int op_PivotRoot(const struct PivotRoot *a) {
  MUST(a->root);
  /* pivot_root(".", ".") puts the old root on top of the new one, from where it is detached: no directory needed. It
   * becomes a slave first, whatever the plan made of it: the detaching must never reach the host. */
  int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (old < 0 || fchdir(slots[a->root]) || syscall(SYS_pivot_root, ".", ".") || fchdir(old) ||
      mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL) || umount2(".", MNT_DETACH) || chdir("/")) return -errno;
  pivoted = 1;
  if (empty >= 0) close(empty), empty = -1;
  return close(old);
}
static int op_MoveRoot(const struct MoveRoot *a) {
  MUST(a->root); if (empty >= 0) close(empty), empty = -1;
  if (fchdir(slots[a->root]) || (mount(".", "/", NULL, MS_MOVE, NULL) && errno != ELOOP /* it is over / already */)) return -errno;
  return chroot(".") || chdir("/") ? -errno : !(pivoted = 1);
}
static int op_Chroot(const struct Chroot *a) {
  MUST(a->root);
  return fchdir(slots[a->root]) || chroot(".") || chdir("/") ? -errno : !(pivoted = 1);
}
static int op_Umount(const struct Umount *a) {
  char name[NAME_MAX + 1];
  if (a->at < 0) return done(umount2(a->path, (int)a->flags));
  int fd = resolve(a->at, a->path, O_PATH, 0), e;
  if (fd < 0) return -errno;
  close(fd); /* it would keep the mount busy: named by the directory that it is in */
  if ((fd = parent_of(a->at, a->path, name)) < 0) return -errno;
  e = done(fchdir(fd) ? -1 : umount2(name, (int)a->flags | UMOUNT_NOFOLLOW)); /* not by /proc: it may be the container's */
  close(fd);
  return e;
}
static int op_Setxattr(const struct Setxattr *a) {
  char path[40];
  int fd = resolve(a->at, a->path, O_PATH, 0), e = fd < 0 ? -errno : 0;
  if (!e && proc_fd(fd, path)) e = done(syscall(SYS_setxattr, path, a->name, a->value.data, (size_t)a->value.length, 0));
  if (fd >= 0) close(fd);
  return e;
}

static int copy_file(int from, const char *name, int to, const struct stat *s) {
  char buffer[65536];
  int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), e = 0;
  if (in < 0) return -errno;
  int out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, s->st_mode & 07777);
  if (out < 0) { e = -errno; close(in); return e; }
  for (ssize_t n; !e && (n = read(in, buffer, sizeof buffer));) e = n < 0 ? -errno : write(out, buffer, (size_t)n) == n ? 0 : -ENOSPC;
  close(in);
  close(out);
  return e;
}
static int copy_tree(int from, int to, int depth) {
  if (depth > 128) return -ELOOP;
  int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = 0;
  DIR *d = again < 0 ? NULL : fdopendir(again);
  if (!d) return -errno;
  for (struct dirent *x; !e && (x = readdir(d));) {
    struct stat s;
    char link[PATH_MAX];
    if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, "..")) continue;
    if (fstatat(from, x->d_name, &s, AT_SYMLINK_NOFOLLOW)) { e = -errno; break; }
    if (S_ISLNK(s.st_mode)) {
      ssize_t n = readlinkat(from, x->d_name, link, sizeof link - 1);
      if (n < 0) { e = -errno; break; }
      link[n] = 0;
      e = done(symlinkat(link, to, x->d_name));
    } else if (S_ISDIR(s.st_mode)) {
      int in = openat(from, x->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), out = -1;
      if (in < 0 || mkdirat(to, x->d_name, 0700) || (out = openat(to, x->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0) e = -errno;
      if (!e) e = copy_tree(in, out, depth + 1);
      if (in >= 0) close(in);
      if (out >= 0) close(out);
    } else if (S_ISREG(s.st_mode)) e = copy_file(from, x->d_name, to, &s);
    else if (!S_ISSOCK(s.st_mode)) e = done(mknodat(to, x->d_name, s.st_mode, s.st_rdev));
    if (e || S_ISSOCK(s.st_mode)) continue;
    struct timespec times[2] = {s.st_atim, s.st_mtim};
    if (fchownat(to, x->d_name, s.st_uid, s.st_gid, AT_SYMLINK_NOFOLLOW)) e = -errno;
    else if (!S_ISLNK(s.st_mode) && fchmodat(to, x->d_name, s.st_mode & 07777, 0)) e = -errno;
    else utimensat(to, x->d_name, times, AT_SYMLINK_NOFOLLOW);
  }
  closedir(d);
  return e;
}
static int op_Copyup(const struct Copyup *a) {
  NEED(a->slot);
  int from = resolve(a->at, a->path, O_RDONLY | O_DIRECTORY, 0);
  if (from < 0) return errno == ENOENT ? 0 : -errno;
  int to = openat(slots[a->slot], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = to < 0 ? -errno : copy_tree(from, to, 0);
  if (to >= 0) close(to);
  close(from);
  return e;
}

/* ---- terminals */

static int op_Pty(const struct Pty *a) {
  struct winsize size = {.ws_row = (unsigned short)a->rows, .ws_col = (unsigned short)a->columns};
  struct stat s = {0};
  int unlock = 0, master = resolve(a->at, a->path, O_RDWR | O_NOCTTY | O_NONBLOCK, 0), e;
  if (master < 0) return -errno;
  fstat(master, &s);
  if (!S_ISCHR(s.st_mode) || major(s.st_rdev) != 5 || minor(s.st_rdev) != 2) { close(master); return -ENOTTY; }
  int slave = -1;
  if (ioctl(master, TIOCSPTLCK, &unlock) || (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 ||
      (a->rows && ioctl(master, TIOCSWINSZ, &size)) || (a->uid != (uint32_t)-1 && fchown(slave, a->uid, (gid_t)-1)) || fcntl(master, F_SETFL, O_RDWR)) {
    e = -errno;
    close(master);
    if (slave >= 0) close(slave);
    return e;
  }
  e = put(a->master, master);
  return e ? e : put(a->slave, slave);
}
static int op_Ctty(const struct Ctty *a) {
  int fd = slot_ok(a->slot) ? slots[a->slot] : 0; /* slot -1: standard input */
  return fd < 0 ? 0 : done(ioctl(fd, TIOCSCTTY, 0));
}

/* ---- credentials and limits */

static int op_SetIds(const struct SetIds *a) {
  /* The raw calls: libc's would try to change other threads, and there are none. */
  if (syscall(SYS_setresgid, a->gid, a->gid, a->gid) || syscall(SYS_setresuid, a->uid, a->uid, a->uid)) return -errno;
  return done(prctl(PR_SET_DUMPABLE, 0));
}
static int op_Groups(const struct Groups *a) { return done(syscall(SYS_setgroups, a->gids.count, a->gids.data)); }
static int op_BoundingSet(const struct BoundingSet *a) {
  for (int cap = 0; cap < 64; cap++) {
    if (a->keep >> cap & 1) continue;
    int has = prctl(PR_CAPBSET_READ, cap);
    if (has < 0) break; /* beyond the last capability of this kernel */
    if (has && prctl(PR_CAPBSET_DROP, cap)) return -errno;
  }
  return 0;
}
static int op_Capset(const struct Capset *a) {
  struct { uint32_t version; int pid; } head = {0x20080522, 0};
  uint32_t data[6] = {(uint32_t)a->effective, (uint32_t)a->permitted, (uint32_t)a->inheritable,
                      (uint32_t)(a->effective >> 32), (uint32_t)(a->permitted >> 32), (uint32_t)(a->inheritable >> 32)};
  return done(syscall(SYS_capset, &head, data));
}
static int op_Ambient(const struct Ambient *a) {
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)) return -errno;
  for (int cap = 0; cap < 64; cap++)
    if (a->raise_ >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0)) return -errno;
  return 0;
}
static int op_Prctl(const struct Prctl *a) {
  if (prctl(a->option, a->arg2, a->arg3, a->arg4, a->arg5)) return -errno;
  /* The parent may have died before it was asked for; from a pid namespace only its end of a pipe shows that. */
  struct pollfd p = {.fd = report};
  if (a->option == PR_SET_PDEATHSIG && a->arg2 && poll(&p, 1, 0) > 0) _exit(1);
  return 0;
}
static int op_Rlimit(const struct Rlimit *a) {
  struct rlimit r = {a->soft, a->hard};
  return done(setrlimit((int)a->resource, &r));
}
static int op_Seccomp(const struct Seccomp *a) {
  struct { unsigned short length; const void *filter; } program = {(unsigned short)(a->program.length / 8), a->program.data};
  if (a->program.length % 8 || a->program.length / 8 > 65535) return -EINVAL;
  long r = syscall(SYS_seccomp, 1 /* SET_MODE_FILTER */, a->flags, &program);
  if (r < 0) return -errno;
  return a->flags & 8 /* NEW_LISTENER */ ? put(a->listener, (int)r) : 0;
}
struct schedule { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; };
static int op_Scheduler(const struct Scheduler *a) {
  struct schedule s = {sizeof s, a->policy, a->flags, a->nice, a->priority, a->runtime, a->deadline, a->period};
  return done(syscall(SYS_sched_setattr, 0, &s, 0));
}
static int op_IoPriority(const struct IoPriority *a) { return done(syscall(SYS_ioprio_set, 1, 0, a->value)); }
static int op_Affinity(const struct Affinity *a) { return done(syscall(SYS_sched_setaffinity, 0, a->cpus.length, a->cpus.data)); }
static int op_Personality(const struct Personality *a) { return done(personality((unsigned long)a->value)); }
static int op_MemoryPolicy(const struct MemoryPolicy *a) {
  return done(syscall(SYS_set_mempolicy, a->mode, a->nodes.length ? a->nodes.data : NULL, a->bits));
}

/* ---- talking, waiting, ending */

static int op_Sync(const struct Sync *a) {
  int fds[SLOTS];
  uint32_t answer = 0;
  unsigned n = 0;
  ssize_t r;
  for (uint32_t i = 0; i < a->fds.count && n < SLOTS; i++) if (slot_fd((int)word(a->fds, i)) >= 0) fds[n++] = slots[word(a->fds, i)];
  int e = tell(SYNC, 0, a->name, fds, n);
  if (e) return e;
  do r = recv(control, &answer, sizeof answer, 0); while (r < 0 && errno == EINTR);
  if (r != sizeof answer || answer != 1) _exit(1); /* the parent gave up or is gone; it knows why */
  return 0;
}
static void ended(int s) { _exit(128 + s); }
static int op_AwaitStart(const struct AwaitStart *a) {
  NEED(a->slot);
  char byte; ssize_t n;
  for (const char *s = "\1\2\17"; *s; s++) signal(*s, ended); /* HUP, INT, TERM: process 1 has no other way to end by them */
  do n = read(slots[a->slot], &byte, 1); while (n < 0 && errno == EINTR);
  if (n == 1) started = slots[a->slot];
  return n == 1 ? 0 : n < 0 ? -errno : -EPIPE;
}
static void plain(void) { /* nothing of the helper's or its parent's passes through exec */
  sigset_t none;
  umask(mask);
  const uint64_t action[4] = {0}; /* the kernel's: libc's leaves out two signals that it uses itself */
  for (int s = 1; s < 65; s++) syscall(SYS_rt_sigaction, s, action, NULL, 8);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}
static int op_Hook(const struct Hook *a) {
  int input = memfd_create("state", MFD_CLOEXEC);
  if (input < 0) return -errno;
  if (write(input, a->stdin.data, a->stdin.length) != (ssize_t)a->stdin.length || lseek(input, 0, SEEK_SET)) { close(input); return -EIO; }
  int failed[2], status = 0, error = 0;
  if (pipe2(failed, O_CLOEXEC)) { close(input); return -errno; }
  pid_t pid = fork();
  if (pid == 0) {
    plain();
    dup2(input, 0);
    execve(a->path, a->args[0] ? a->args : (char *[]){(char *)a->path, NULL}, a->env);
    error = errno;
    if (write(failed[1], &error, sizeof error) < 0) _exit(126);
    _exit(127);
  }
  close(input);
  close(failed[1]);
  if (pid < 0) { close(failed[0]); return -errno; }
  /* The pipe closes when exec succeeds or the child is gone. */
  if (read(failed[0], &error, sizeof error) != sizeof error) error = 0;
  close(failed[0]);
  int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0 && !error) error = errno;
  struct pollfd p = {.fd = pidfd, .events = POLLIN};
  int ended = error ? 0 : poll(&p, 1, a->timeout_ms ? (int)a->timeout_ms : -1);
  if (ended <= 0) kill(pid, SIGKILL);
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  if (pidfd >= 0) close(pidfd);
  if (error) { snprintf(detail, sizeof detail, "%s", a->path); return -error; }
  if (ended <= 0) { snprintf(detail, sizeof detail, "%s: timed out after %u ms", a->path, a->timeout_ms); return -ETIMEDOUT; }
  if (!WIFEXITED(status) || WEXITSTATUS(status)) {
    if (WIFEXITED(status)) snprintf(detail, sizeof detail, "%s: exit status %d", a->path, WEXITSTATUS(status));
    else snprintf(detail, sizeof detail, "%s: killed by signal %d", a->path, WTERMSIG(status));
    return -ECHILD;
  }
  return 0;
}
static int executable(const char *path) {
  struct stat s;
  if (stat(path, &s)) return -errno;
  if (S_ISDIR(s.st_mode)) return -EACCES;
  return done(faccessat(AT_FDCWD, path, X_OK, AT_EACCESS));
}
static int op_FindExec(const struct FindExec *a) {
  int error = ENOENT;
  for (char **c = a->candidates; *c; c++) {
    int e = executable(*c);
    if (!e) return 0;
    if (e != -ENOENT && e != -ENOTDIR) error = -e;
  }
  return -error;
}
static int op_Execve(const struct Execve *a) {
  int error = ENOENT;
  char byte;
  plain();
  /* Who let it go sees by the second byte how far it came, with nothing called that a filter must not know already. */
  while (started >= 0 && read(started, &byte, 1) < 0 && errno == EINTR) {}
  for (char **c = a->candidates; *c; c++) {
    execve(*c, a->argv, a->env);
    int e = errno;
    if (e == ENOENT && !access(*c, F_OK)) { snprintf(detail, sizeof detail, "the interpreter of %s is missing", *c); }
    if (e == EACCES) { error = e; continue; }
    if (e != ENOENT && e != ENOTDIR) return -e;
  }
  return -error;
}
static int op_Exit(const struct Exit *a) { _exit((int)a->code); }

/* ---- the plan */

static int skipped(uint8_t skip, int error) {
  if (skip & SKIP_MISSING && (error == ENOENT || error == ENOTDIR)) return 1;
  if (skip & SKIP_DENIED && (error == EPERM || error == EACCES)) return 1;
  if (skip & SKIP_EXISTS && error == EEXIST) return 1;
  return skip & SKIP_UNSUPPORTED && (error == ENOSYS || error == EOPNOTSUPP || error == EINVAL);
}

static void run(const uint8_t *plan, size_t length) {
  struct reader r = {plan, plan + length, 0};
  struct header h = take_header(&r);
  if (r.bad || h.inherited > SLOTS) { snprintf(detail, sizeof detail, "not a plan"); fail(EBADMSG); }
  if (syscall(SYS_close_range, FIRST_INHERITED + h.inherited, ~0U, 0)) fail(errno);
  if (syscall(SYS_close_range, 4, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */)) fail(errno);
  close(3);
  for (int i = 0; i < (int)h.inherited; i++) if (fcntl(slots[i] = FIRST_INHERITED + i, F_GETFD) < 0) fail(errno);
  for (stage = 0; stage < h.stages; stage++) {
    uint32_t count = take_u32(&r);
    for (op_index = 0; op_index < count; op_index++) {
      struct op op = take_op(&r);
      detail[0] = 0;
      absent = 0;
      int e = r.bad ? -EBADMSG : perform(op.code, &op.body);
      if (e < 0 && !absent && !skipped(op.skip, -e)) fail(-e);
    }
  }
  snprintf(detail, sizeof detail, "the plan ends without Execve");
  fail(EBADMSG);
}

int main(int argc, char **argv) {
  struct stat s;
  for (int i = 0; i < SLOTS; i++) slots[i] = -1;
  control = 4, report = argc > 1 && !strcmp(argv[1], "report") ? 5 : -1;
  if (report < 0) close(5);
  signal(SIGPIPE, SIG_IGN);
  umask(0);
  /* A process that is about to enter a container must not be open to ptrace from inside; exec makes it dumpable. */
  if (prctl(PR_SET_DUMPABLE, 0)) fail(errno);
  if (fstat(3, &s) || (S_ISSOCK(s.st_mode) && (await_plan(3, FIRST_INHERITED) || fstat(3, &s)))) fail(errno);
  const uint8_t *plan = s.st_size > 0 ? mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, 3, 0) : MAP_FAILED;
  if (plan == MAP_FAILED) fail(EBADMSG);
  run(plan, (size_t)s.st_size);
}
