/* orlop-init: the first process of a container that was started with --init.
 *
 * A kernel's process 1 ignores signals that it has no handler for and must reap orphans; few programs are written for
 * that. This one starts the real program, passes every signal on to it, reaps whatever is handed to it, and ends with the
 * program's status. Usage: orlop-init [--] PROGRAM ARGS...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "errno_names.h"

/* These say that init itself is broken, or are the kernel's word to init about its terminal. */
static const int kept[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU};

static void say(const char *program, const char *what)
{
	char line[512] = "orlop-init: ";
	strncat(line, program, 400);
	strcat(line, ": ");
	strncat(line, what, 64);
	strcat(line, "\n");
	if (write(2, line, strlen(line)) < 0)
		_exit(126);
}

/* The kernel's own mask: libc's leaves out signals that it uses itself. */
static int set_mask(uint64_t mask, uint64_t *old)
{
	return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, old, sizeof mask);
}

/* The program gets a process group of its own and, where there is a terminal, its foreground: so that Ctrl-C reaches the
 * program and what it starts, once. */
static void become_program(char **argv, uint64_t before)
{
	setpgid(0, 0);
	if (tcsetpgrp(0, getpgrp()) < 0 && errno != ENOTTY && errno != ENXIO && errno != EBADF && errno != EINVAL)
		say("terminal", errno_name(errno));
	signal(SIGTTIN, SIG_DFL);
	signal(SIGTTOU, SIG_DFL);
	set_mask(before, NULL);
	execvp(argv[0], argv);
	int error = errno;
	say(argv[0], errno_name(error));
	_exit(error == ENOENT || error == ENOTDIR ? 127 : 126);
}

static int reap(pid_t program, int *code)
{
	int status, ended = 0;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == program) {
			*code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
			ended = 1;
		}
	return ended || (pid < 0 && errno == ECHILD);
}

int main(int argc, char **argv)
{
	uint64_t heard = ~0ull, before;
	pid_t program;
	int code = 255;
	argv += argc > 1 && !strcmp(argv[1], "--") ? 2 : 1;
	if (argc < 2 || !argv[0]) {
		say("usage", "orlop-init PROGRAM [ARGS...]");
		return 125;
	}
	for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
		heard &= ~(1ull << (kept[i] - 1));
	set_mask(heard, &before);
	signal(SIGTTIN, SIG_IGN); /* giving the terminal away from the background must not stop init */
	signal(SIGTTOU, SIG_IGN);
	program = fork();
	if (program < 0) {
		say("fork", errno_name(errno));
		return 126;
	}
	if (!program)
		become_program(argv, before);
	for (;;) {
		siginfo_t info;
		if (syscall(SYS_rt_sigtimedwait, &heard, &info, NULL, sizeof heard) < 0)
			continue;
		if (info.si_signo != SIGCHLD)
			kill(program, info.si_signo);
		else if (reap(program, &code))
			return code;
	}
}
