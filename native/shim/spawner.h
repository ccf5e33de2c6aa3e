/* The spawner: shims for a daemon that starts many containers. It is asked by a message (SOCK_SEQPACKET), which has the
 * arguments, each with its NUL, and the descriptors from 3 on; each shim is a fork of it, so that nobody waits until a
 * program is loaded. It ends when the daemon's end of the socket is closed. */
#pragma once
#include "base.h"

enum { FD_REQUESTS = 3, MAX_REQUEST = 16384, MAX_WORDS = 64, OUT_OF_THE_WAY = 128 };

static char request[MAX_REQUEST];
static char *words[MAX_WORDS + 1];
static int spawned; /* this process is a shim that a spawner has forked */

/* What ps(1) shows. The text has to fit in between argv[0] and the end of the last argument, which is there for that;
 * the kernel takes all up to the first NUL for it once the last argument has lost its own (proc_pid_cmdline(5)). */
static void show(char *const from, char *const last, int count, char *const *texts)
{
	char *const end = last + strlen(last), *to = from;
	for (int i = 0; i < count; i++) {
		size_t n = strlen(texts[i]);
		if (n + 2 > (size_t)(end - to))
			break;
		if (i)
			*to++ = ' ';
		memcpy(to, texts[i], n);
		to += n;
	}
	*to = 0;
	*end = '.';
}

/* How many words the request has; 0 for one that is not made as it should be. */
static int split(size_t length)
{
	int n = 0;
	if (!length || request[length - 1])
		return 0;
	for (char *at = request; at < request + length; at += strlen(at) + 1) {
		if (n == MAX_WORDS)
			return 0;
		words[n++] = at;
	}
	words[n] = NULL;
	return n;
}

static int take(int *fds, u32 *count, size_t *length)
{
	static char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
	struct iovec data = {request, sizeof request};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	ssize_t n;
	do
		n = recvmsg(FD_REQUESTS, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return -1;
	*length = (size_t)n;
	*count = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			*count = (u32)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), *count * sizeof(int));
		}
	return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? 0 : 1;
}

/* Returns in each shim with its arguments in `words`, and its descriptors from 3 on. */
static int spawn_shims(char **argv)
{
	static char *const own[] = {"orlop-shim", "--spawner"};
	int fds[MAX_FDS];
	u32 count;
	size_t length;
	show(argv[0], argv[2], 2, own);
	syscall(SYS_close_range, FD_REQUESTS + 1, ~0U, 0);
	fcntl(FD_REQUESTS, F_SETFD, FD_CLOEXEC);
	setsid(); /* what a terminal sends to the daemon's group is not for it */
	signal(SIGCHLD, SIG_IGN);
	if (chdir("/") < 0)
		_exit(1);
	for (;;) {
		int whole = take(fds, &count, &length), n = whole > 0 ? split(length) : 0;
		pid_t pid = -1;
		if (whole < 0)
			_exit(0);
		errno = EINVAL;
		if (n && count >= FD_INHERITED - 3)
			pid = fork();
		if (!pid) {
			show(argv[0], argv[2], n, words);
			for (u32 i = 0; i < count; i++)
				fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
			for (u32 i = 0; i < count; i++)
				dup2(fds[i], (int)(3 + i)); /* one that is missing is found to be so by whoever uses it */
			spawned = 1;
			return n;
		}
		if (pid < 0 && count >= FD_INHERITED - 3) {
			ready_fd = fds[FD_READY - 3];
			complain("spawn", errno);
			ready_fd = -1;
		}
		for (u32 i = 0; i < count; i++)
			close(fds[i]);
	}
}
