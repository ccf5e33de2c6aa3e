/* What every part of the shim needs: its constants, its configuration, what it knows of its container, and small
 * functions over text, time and descriptors. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include "../errno_names.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

enum { ATTACH = 1, STDIN, STDIN_EOF, RESIZE, SIGNAL, WAIT, OWN, DONE, EXEC, STATUS, TERMINAL, REOPEN };
enum { OUTPUT = 65, EXIT, ERROR, PID, OK, STATE };

enum {
	FD_PLAN = 3,
	FD_CONTROL = 4,
	FD_READY = 5,
	FD_INHERITED = 6,
	HEADER = 8,
	MAX_PAYLOAD = 65536,
	CHUNK = 32768,          /* one read of the container's output */
	BACKLOG_SOFT = 131072,  /* output kept for the slowest client; beyond it the container's pipe fills and blocks */
	BACKLOG_HARD = 327680,  /* after init's end: room for what two full pipes still hold, so that nobody is waited for */
	BACKLOG_COLD = 65536,   /* an empty backlog gives the pages beyond this back */
	LINE_MAX_BYTES = 16384, /* Docker's log driver splits longer lines in pieces of this size */
	LOG_BATCH = 16384,      /* encoded bytes that are collected before a write(2) */
	ENTRY_MAX = LINE_MAX_BYTES * 6 + 128, /* one piece when every byte needs \u00xx, with the frame around it */
	STDIN_BUFFER = 16384,
	MAX_CLIENTS = 256,
	MAX_EXECS = 32,
	MAX_FDS = 64,
	MAX_ORPHANS = 16,
	MAX_STAGES = 8,
	DRAIN_MS = 2000,  /* a process outside the pid namespace may keep the pipe open after init's end: wait this long */
	OWNER_MS = 10000, /* an owner that neither confirms nor leaves (stopped, blocked) must not prevent the clean-up */
};

/* --- small things ------------------------------------------------------------------------------------------- */

static int ready_fd = -1; /* closed (-1) once the spawner has its answer */

static size_t put_text(char *to, const char *text)
{
	size_t n = strlen(text);
	memcpy(to, text, n);
	return n;
}

static size_t put_number(char *to, u64 value)
{
	char digits[20];
	size_t n = 0, i;
	do
		digits[n++] = (char)('0' + value % 10);
	while (value /= 10);
	for (i = 0; i < n; i++)
		to[i] = digits[n - 1 - i];
	return n;
}

static size_t put_padded(char *to, u32 value, int width)
{
	for (int i = width - 1; i >= 0; i--, value /= 10)
		to[i] = (char)('0' + value % 10);
	return (size_t)width;
}

/* Before the shim is ready: one line for who wanted it, "what: ERRNO". */
static int complain(const char *what, int error)
{
	char line[512];
	const char *name = error ? errno_name(error) : NULL;
	size_t n = strnlen(what, 400);
	memcpy(line, what, n);
	if (error) {
		n += put_text(line + n, ": ");
		n += put_text(line + n, name ? name : "unknown error");
	}
	line[n++] = '\n';
	return write(ready_fd, line, n) < 0 ? -1 : 0;
}

static void fail(const char *what, int error)
{
	_exit(complain(what, error) < 0 ? 2 : 1);
}

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* --- configuration and state -------------------------------------------------------------------------------- */

static struct {
	const char *id, *state, *log, *oom, *pid_file;
	u64 log_max_size;
	u32 log_max_files;
	int tty, console, keep_stdin, stdin_once, cri;
	unsigned short rows, columns;
	int launch, client;
	int chown;
	uid_t uid;
	gid_t gid;
	char **on_exit;
} config = {.log_max_files = 1, .launch = -1, .client = -1};

static enum { RUNNING, DRAINING, ENDED, LEAVING } phase = RUNNING;
static int64_t deadline;

static int state_fd = -1, lock_fd = -1, listener = -1, signals = -1, exit_fd = -1;
static int report = -1;           /* the helper writes init's pid here; closed by execve */
static int output[2] = {-1, -1};  /* stdout and stderr, or the terminal's master and nothing */
static int input = -1;            /* the container's stdin, or a copy of the master */
static int slave = -1;            /* kept open so that the master never reads EIO while init lives */
static pid_t helper, init;
static int init_pidfd = -1, ended, exit_code, exit_signal;
static u64 start_time, exit_time;
static u64 oom_before, oom_seen;
static int oom_fd = -1;
static int owners, done;

static struct { pid_t pid; int status, reaped; } family[MAX_STAGES]; /* what the plan's stages cloned */
static u32 family_size;
static struct { pid_t pid; int status; } orphans[MAX_ORPHANS]; /* reaped, perhaps before anybody knew whose they were */
static u32 orphan_next;

static struct { u8 data[STDIN_BUFFER]; size_t length; int eof; } stdin_queue;
