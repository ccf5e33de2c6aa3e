/* Processes: the launch helper, the stages that it clones, init, the ends of all of them, and the record of the exit. */
#pragma once

static void reset_signals(void)
{
	sigset_t none;
	for (int i = 1; i < 32; i++)
		if (i != SIGKILL && i != SIGSTOP)
			signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Start the launch helper with fds[0..count) as its descriptors 0, 1, ...; -1 and errno when it can't be executed. */
static pid_t spawn_helper(int launch, const int *fds, int count)
{
	static char *const arguments[] = {"orlop-launch", "report", NULL}, *const environment[] = {NULL};
	volatile int error = 0;
	pid_t pid = vfork(); /* the child has its own descriptors and signals, and shares only memory */
	if (pid == 0) {
		int moved[MAX_FDS + FD_INHERITED];
		for (int i = 0; i < count; i++) /* first above all targets, so that no dup2 overwrites a source */
			moved[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, MAX_FDS + FD_INHERITED);
		launch = fcntl(launch, F_DUPFD_CLOEXEC, MAX_FDS + FD_INHERITED);
		for (int i = 0; i < count; i++)
			if (dup2(moved[i], i) < 0)
				_exit((error = errno, 1));
		reset_signals();
		syscall(SYS_execveat, launch, "", arguments, environment, AT_EMPTY_PATH);
		error = errno;
		_exit(1);
	}
	if (pid > 0 && error) {
		waitpid(pid, NULL, 0);
		errno = error;
		return -1;
	}
	return pid;
}

static void start_container(void)
{
	int fds[MAX_FDS + FD_INHERITED], inherited = config.launch - FD_INHERITED, pipe_fds[2], null;
	make_streams(fds);
	note_streams(fds);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		fail("pipe", errno);
	report = pipe_fds[0];
	nonblocking(report);
	fds[FD_PLAN] = FD_PLAN;
	fds[FD_CONTROL] = FD_CONTROL;
	fds[5] = pipe_fds[1];
	for (int i = 0; i < inherited; i++)
		fds[FD_INHERITED + i] = FD_INHERITED + i;
	helper = spawn_helper(config.launch, fds, FD_INHERITED + inherited);
	if (helper < 0)
		fail("start the launch helper", errno);
	for (int i = 0; i < 3; i++)
		if (fds[i] != slave)
			close(fds[i]);
	close(pipe_fds[1]);
	/* Nothing of the helper's may stay open here: the peer of the control socket waits for its end. */
	close(FD_PLAN);
	close(FD_CONTROL);
	for (int fd = FD_INHERITED; fd <= config.launch; fd++)
		close(fd);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++)
		if (null >= 0)
			dup2(null, i);
	shut(&null);
}

/* A field of /proc/PID/stat, counted as proc(5) does; field 2 may hold anything, so from its last ")" on. 0 when the
 * process is gone. */
static u64 stat_field(pid_t pid, int wanted)
{
	char path[32], text[1024], *p;
	size_t n = put_text(path, "/proc/");
	ssize_t size;
	int fd;
	n += put_number(path + n, (u64)pid);
	memcpy(path + n, "/stat", 6);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	shut(&fd);
	if (size <= 0)
		return 0;
	text[size] = 0;
	p = strrchr(text, ')');
	for (int field = 2; p && field < wanted; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

/* Whether a process is on its way out: PF_EXITING of its flags is set before its descriptors are closed. */
static int exiting(pid_t pid)
{
	u64 flags = stat_field(pid, 9);
	return !flags || (flags & 4);
}

static void write_pid(void)
{
	char text[48];
	size_t n = put_number(text, (u64)init);
	int fd = openat(state_fd, "pid.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	text[n++] = ' ';
	n += put_number(text + n, start_time);
	text[n++] = '\n';
	if (fd >= 0 && write(fd, text, n) == (ssize_t)n)
		renameat(state_fd, "pid.tmp", state_fd, "pid");
	shut(&fd);
}

static void init_ended(int status)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	exit_time = (u64)now.tv_sec * 1000000000 + (u64)now.tv_nsec;
	exit_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	exit_code = exit_signal ? 128 + exit_signal : WEXITSTATUS(status);
	ended = 1;
	shut(&init_pidfd);
	shut(&report);
}

static void init_known(pid_t pid)
{
	init = pid;
	shut(&init_pidfd);
	/* Our child, not yet reaped: the number can't belong to another process. */
	init_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	start_time = stat_field(pid, 22);
	write_pid();
}

/* Lines of a report pipe are pids of what was cloned; how many there are now, -1 when the pipe has ended. A line is one
 * write(2) of its own, so none is cut. */
static int read_report(int fd, pid_t pids[MAX_STAGES])
{
	char text[12 * MAX_STAGES + 1], *p = text, *end;
	ssize_t n = read(fd, text, sizeof text - 1);
	int count = 0;
	if (n <= 0)
		return n == 0 ? -1 : 0;
	text[n] = 0;
	for (; count < MAX_STAGES && (pids[count] = (pid_t)strtol(p, &end, 10)) > 0; p = end)
		count++;
	return count;
}

/* Each stage clones the next one and leaves, and a clone may be faster than the word of it: init is the last of them
 * that lives. When none does, the status is that of the one that did not just hand over (with 0). */
static void family_settle(void)
{
	pid_t last = 0;
	int status = 0;
	for (u32 i = 0; i < family_size; i++)
		if (!family[i].reaped)
			last = family[i].pid;
		else if (family[i].status)
			status = family[i].status;
	if (last && last != init)
		init_known(last);
	else if (!last && family_size && !ended)
		init_ended(status);
}

static void family_add(pid_t pid)
{
	if (family_size == MAX_STAGES)
		return;
	family[family_size].pid = pid;
	for (u32 i = 0; i < MAX_ORPHANS; i++)
		if (orphans[i].pid == pid) {
			family[family_size].reaped = 1;
			family[family_size].status = orphans[i].status;
		}
	family_size++;
}

/* A plan without Clone never writes: its process is the helper itself; unless that is another runtime, which writes to
 * --pid-file whom it has made. */
static void report_read(void)
{
	pid_t pids[MAX_STAGES];
	int count = 0;
	while (report >= 0 && (count = read_report(report, pids)) != 0) {
		for (int i = 0; i < count; i++)
			family_add(pids[i]);
		if (count > 0)
			continue;
		shut(&report);
		if (!family_size && !config.pid_file && helper && !exiting(helper))
			family_add(helper);
	}
}

static void report_ready(void)
{
	report_read();
	family_settle();
}

/* The helper was killed before it could say what it had cloned: nobody else knows of that process. */
static void kill_strays(void)
{
	char path[64], text[512], *p = text, *end;
	size_t n = put_text(path, "/proc/self/task/");
	ssize_t size;
	int fd;
	n += put_number(path + n, (u64)getpid());
	memcpy(path + n, "/children", 10);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	shut(&fd);
	if (size <= 0)
		return;
	text[size] = 0;
	for (pid_t pid; (pid = (pid_t)strtol(p, &end, 10)) > 0; p = end)
		kill(pid, SIGKILL);
}

/* Another runtime has made the container and left: its init is now a child of this process, the nearest subreaper.
 * False where it has not said who that is. */
static int adopt_init(void)
{
	char text[24];
	int fd = open(config.pid_file, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	pid_t pid;
	shut(&fd);
	text[size > 0 ? size : 0] = 0;
	pid = (pid_t)strtol(text, NULL, 10);
	if (pid <= 1)
		return 0;
	family_add(pid);
	family_settle();
	return 1;
}

static void helper_reaped(int status)
{
	helper = 0;
	if (family_size || ended || (config.pid_file && status == 0 && adopt_init()))
		return;
	kill_strays();
	init_ended(status ? status : 255 << 8);
}

static void exec_tell(u32 i, pid_t pid)
{
	struct client *c = &clients[execs[i].client];
	int32_t value = pid;
	if (execs[i].told++ || c->fd < 0 || c->serial != execs[i].serial)
		return;
	if (pid > 0)
		answer(c, PID, &value, 4);
	else
		answer_error(c, "the launch helper ended before it started the process", 0);
	client_flush(c);
}

/* The pipe is kept until the program runs: by its end, the new process sees whether the shim still lives. */
static void exec_ready(u32 i)
{
	pid_t pids[MAX_STAGES], alone = execs[i].helper;
	int count;
	while (execs[i].report >= 0 && (count = read_report(execs[i].report, pids)) != 0) {
		if (count < 0)
			shut(&execs[i].report);
		exec_tell(i, count > 0 ? pids[count - 1] : alone && !exiting(alone) ? alone : 0);
	}
}

/* Number after "oom_kill " in the memory cgroup's events (v2: memory.events, v1: memory.oom_control). The group may come
 * into being after the shim, and be gone, with what it says, as soon as its last process is: so it is read when it
 * changes (poll), and before an end is looked at. */
static void oom_look(void)
{
	char text[512], *p;
	ssize_t n;
	if (oom_fd < 0 && config.oom)
		oom_fd = open(config.oom, O_RDONLY | O_CLOEXEC);
	if (oom_fd < 0)
		return;
	n = pread(oom_fd, text, sizeof text - 1, 0);
	if (n <= 0) {
		shut(&oom_fd);
		return;
	}
	text[n] = 0;
	p = strstr(text, "oom_kill ");
	if (p && strtoull(p + 9, NULL, 10) > oom_seen)
		oom_seen = strtoull(p + 9, NULL, 10);
}

static void reaped(pid_t pid, int status)
{
	report_read();
	for (u32 i = 0; i < family_size; i++)
		if (family[i].pid == pid && !family[i].reaped) {
			family[i].reaped = 1;
			family[i].status = status;
		}
	family_settle();
	if (pid == helper)
		helper_reaped(status);
	for (u32 i = 0; i < MAX_EXECS; i++)
		if (execs[i].report >= 0 && execs[i].helper == pid) {
			execs[i].helper = 0;
			exec_ready(i);
		}
	orphans[orphan_next % MAX_ORPHANS].pid = pid;
	orphans[orphan_next++ % MAX_ORPHANS].status = status;
}

static void children(void)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;
	oom_look();
	while (read(signals, &info, sizeof info) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		reaped(pid, status);
}

/* The blocks were allocated at the start: a full disk can't lose the status. */
static void write_exit(void)
{
	char text[96];
	size_t n = put_number(text, (u64)exit_code);
	text[n++] = ' ';
	n += put_number(text + n, (u64)exit_signal);
	text[n++] = ' ';
	n += put_number(text + n, exit_time);
	text[n++] = ' ';
	oom_look();
	text[n++] = oom_seen > oom_before ? '1' : '0';
	text[n++] = '\n';
	if (pwrite(exit_fd, text, n, 0) != (ssize_t)n || ftruncate(exit_fd, (off_t)n) < 0 || fsync(exit_fd) < 0)
		return; /* without the file the record says "lost", which is true */
	renameat(state_fd, "exit.tmp", state_fd, "exit");
	fsync(state_fd);
	shut(&exit_fd);
}

static void run_on_exit(void)
{
	if (vfork() == 0) {
		reset_signals();
		setsid();
		execve(config.on_exit[0], config.on_exit, environ);
		_exit(127);
	}
}

/* The lock and the socket's name are free before the on-exit program runs: it may start the container anew. */
static void leave(void)
{
	unlinkat(state_fd, "shim.sock", 0);
	shut(&listener);
	shut(&lock_fd);
	if (!done && config.on_exit)
		run_on_exit();
	phase = LEAVING;
}
