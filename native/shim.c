/* orlop-shim: supervises one container.
 *
 * It is the parent of the container's first process (init): it owns the standard streams or the terminal, copies output
 * to attached clients and to a log (json-file or CRI), answers clients on a unix socket, and records the exit status durably.
 * It decides nothing about the container: what to start is a plan that the launch helper executes.
 *
 * One thread, one poll(2) loop, no heap, no stdio: its private memory is the standing cost of a container.
 * src/orlop/shim/spawn.py describes the arguments and descriptors, src/orlop/wire/frames.py the frames.
 *
 * It is one program in several files, which stand on each other in the order in which they are included; here are its
 * loop and its start.
 */
#include "shim/base.h"
#include "shim/log.h"
#include "shim/clients.h"
#include "shim/streams.h"
#include "shim/processes.h"
#include "shim/frames.h"
#include "shim/spawner.h"

/* --- the loop ------------------------------------------------------------------------------------------------ */

/* The life of a shim: running -> (init ended) draining -> (output ended, or time is up) ended, the status is on disk ->
 * (no owner left, or one is done) leaving -> (clients have got everything) gone. */
static void advance(void)
{
	if (phase == RUNNING && ended) {
		phase = DRAINING;
		deadline = now_ms() + DRAIN_MS;
		if (config.tty)
			output_read(0);
		shut(&slave);
		shut(&input);
	}
	if (phase == DRAINING && ((output[0] < 0 && output[1] < 0) || now_ms() >= deadline)) {
		output_finish();
		write_exit();
		phase = ENDED;
		deadline = now_ms() + OWNER_MS;
		for (u32 i = 0; i < client_top; i++)
			client_flush(&clients[i]);
	}
	if (phase == ENDED && (!owners || done || now_ms() >= deadline))
		leave();
	if (phase == LEAVING) {
		for (u32 i = 0; i < client_top; i++)
			if (clients[i].fd >= 0 && client_pending(&clients[i]))
				return;
		_exit(0);
	}
}

static struct pollfd polled[7 + MAX_EXECS + MAX_CLIENTS];

static u32 poll_add(u32 n, int fd, short events)
{
	polled[n].fd = fd;
	polled[n].events = events;
	polled[n].revents = 0;
	return n + 1;
}

static u32 poll_prepare(void)
{
	u32 n = 0;
	int room = backlog_room();
	n = poll_add(n, signals, POLLIN);
	n = poll_add(n, client_count < MAX_CLIENTS ? listener : -1, POLLIN);
	n = poll_add(n, report, POLLIN);
	n = poll_add(n, stdin_queue.length ? input : -1, POLLOUT);
	n = poll_add(n, room ? output[0] : -1, POLLIN);
	n = poll_add(n, room ? output[1] : -1, POLLIN);
	n = poll_add(n, oom_fd, POLLPRI);
	for (u32 i = 0; i < MAX_EXECS; i++)
		n = poll_add(n, execs[i].report, POLLIN);
	for (u32 i = 0; i < client_top; i++) {
		struct client *c = &clients[i];
		short events = c->fd >= 0 && client_readable(c) ? POLLIN : 0;
		if (c->fd >= 0 && client_pending(c))
			events |= POLLOUT;
		n = poll_add(n, c->fd, events);
	}
	return n;
}

static void poll_client(struct client *c, int fd, short events)
{
	if (c->fd != fd || !events)
		return; /* dropped, or replaced, while this round went on */
	if (events & POLLOUT)
		client_flush(c);
	if (c->fd == fd && (events & POLLIN))
		client_read(c);
	else if (c->fd == fd && (events & (POLLHUP | POLLERR)))
		client_drop(c);
}

static void loop(void)
{
	for (;;) {
		u32 n, seen;
		int timeout = -1;
		advance();
		if (phase == DRAINING || phase == ENDED) {
			int64_t left = deadline - now_ms();
			timeout = left > 0 ? (int)left + 1 : 0;
		}
		n = poll_prepare();
		seen = client_top;
		if (poll(polled, n, timeout) < 0)
			continue;
		if (polled[2].revents)
			report_ready();
		if (polled[6].revents)
			oom_look();
		if (polled[0].revents)
			children();
		if (polled[3].revents)
			stdin_flush();
		for (int i = 0; i < 2; i++)
			if (polled[4 + i].revents && output[i] >= 0 && backlog_room())
				output_read(i);
		for (u32 i = 0; i < MAX_EXECS; i++)
			if (polled[7 + i].revents)
				exec_ready(i);
		for (u32 i = 0; i < seen; i++)
			poll_client(&clients[i], polled[7 + MAX_EXECS + i].fd, polled[7 + MAX_EXECS + i].revents);
		if (polled[1].revents)
			accept_clients();
		if (backlog_length)
			backlog_trim();
	}
}

/* --- the start ----------------------------------------------------------------------------------------------- */

static u64 number(const char *text, const char *option)
{
	char *end;
	u64 value = strtoull(text, &end, 10);
	if (end == text || *end)
		fail(option, EINVAL);
	return value;
}

static void pair(char *text, char separator, u32 *first, u32 *second, const char *option)
{
	char *middle = strchr(text, separator);
	if (!middle)
		fail(option, EINVAL);
	*middle = 0;
	*first = (u32)number(text, option);
	*second = (u32)number(middle + 1, option);
	*middle = separator;
}

static void parse(int argc, char **argv)
{
	static const char *const flags[] = {"--stdin", "--stdin-once", "--console", "--log-cri", NULL};
	static const char *const values[] = {"--id",  "--state", "--log",    "--log-max-size", "--log-max-files", "--tty",
	                                     "--oom", "--owner", "--launch", "--client",       "--pid-file",     NULL};
	u32 a, b;
	for (int i = 1; i < argc; i++) {
		int flag = 0, value = 0;
		if (!strcmp(argv[i], "--on-exit") && i + 1 < argc) {
			config.on_exit = argv + i + 1;
			break;
		}
		while (flags[flag] && strcmp(argv[i], flags[flag]))
			flag++;
		while (values[value] && strcmp(argv[i], values[value]))
			value++;
		if (flags[flag]) {
			config.console |= flag == 2;
			config.keep_stdin |= flag < 2;
			config.cri |= flag == 3;
			config.stdin_once |= flag == 1;
			continue;
		}
		if (!values[value] || i + 1 >= argc)
			fail(argv[i], EINVAL);
		char *text = argv[++i];
		switch (value) {
		case 0: config.id = text; break;
		case 1: config.state = text; break;
		case 2: config.log = text; break;
		case 3: config.log_max_size = number(text, "--log-max-size"); break;
		case 4: config.log_max_files = (u32)number(text, "--log-max-files"); break;
		case 5:
			pair(text, 'x', &a, &b, "--tty");
			config.tty = 1;
			config.rows = (unsigned short)a;
			config.columns = (unsigned short)b;
			break;
		case 6: config.oom = text; break;
		case 7:
			pair(text, ':', &config.uid, &config.gid, "--owner");
			config.chown = 1;
			break;
		case 8: config.launch = (int)number(text, "--launch"); break;
		case 9: config.client = (int)number(text, "--client"); break;
		case 10: config.pid_file = text; break;
		}
	}
	if (!config.id || !config.state || config.launch < FD_INHERITED || config.launch > FD_INHERITED + MAX_FDS)
		fail("--id, --state and --launch are needed", 0);
	if (config.log && strlen(config.log) > 4000)
		fail("--log", ENAMETOOLONG);
	if (config.log_max_files < 1 || config.log_max_files > 1000)
		fail("--log-max-files", EINVAL);
}

/* The lock says that a shim lives; it is taken before anything in the directory is touched. */
static void open_state(void)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "shim.sock"};
	if (chdir(config.state) < 0)
		fail("open the state directory", errno);
	state_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	lock_fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (state_fd < 0 || lock_fd < 0)
		fail("open the state directory", errno);
	/* Whoever looks whether a shim lives takes a shared lock for a moment: try more than once. */
	for (int tries = 0; flock(lock_fd, LOCK_EX | LOCK_NB) < 0; tries++) {
		if (errno != EWOULDBLOCK || tries == 100)
			fail("another shim runs the container", errno == EWOULDBLOCK ? EBUSY : errno);
		usleep(2000);
	}
	unlink("pid");
	unlink("exit");
	unlink("shim.sock");
	exit_fd = open("exit.tmp", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (exit_fd < 0 || (fallocate(exit_fd, 0, 0, 96) < 0 && errno != EOPNOTSUPP))
		fail("reserve the exit status", errno);
	umask(0177);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&name, sizeof name) < 0 || listen(listener, 128) < 0)
		fail("listen on shim.sock", errno);
	umask(0022);
	if (chdir("/") < 0)
		fail("chdir /", errno);
}

/* A session of its own; no second fork, since every terminal here is opened with O_NOCTTY. */
static void daemonise(void)
{
	pid_t pid = spawned ? 0 : fork();
	if (pid < 0)
		fail("fork", errno);
	if (pid > 0)
		_exit(0);
	setsid();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* Containers outlive everybody's request to stop their shim: only SIGKILL ends it early. */
static void take_signals(void)
{
	sigset_t set;
	for (int i = 1; i < 32; i++)
		if (i != SIGCHLD && i != SIGKILL && i != SIGSTOP && i != SIGSEGV && i != SIGBUS && i != SIGABRT)
			signal(i, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_SETMASK, &set, NULL);
	signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		fail("signalfd", errno);
}

static void say_ready(void)
{
	char line[32];
	size_t n = put_text(line, "ok ");
	n += put_number(line + n, (u64)getpid());
	line[n++] = '\n';
	if (write(ready_fd, line, n) < 0)
		return; /* the spawner is gone; its control socket is, too, and the helper will notice */
	shut(&ready_fd);
}

int main(int argc, char **argv)
{
	int last;
	if (argc == 3 && !strcmp(argv[1], "--spawner")) {
		argc = spawn_shims(argv);
		argv = words;
	}
	ready_fd = FD_READY;
	parse(argc, argv);
	last = config.client > config.launch ? config.client : config.launch;
	/* What the spawner's own parent leaked to it (a shell's pipes) must not be held open by a daemon. */
	syscall(SYS_close_range, last + 1, ~0U, 0);
	for (int fd = 3; fd <= last; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	ready_fd = fcntl(FD_READY, F_DUPFD_CLOEXEC, last + 1);
	close(FD_READY);
	for (u32 i = 0; i < MAX_EXECS; i++)
		execs[i].report = -1;
	open_state();
	log_open();
	oom_look();
	oom_before = oom_seen;
	daemonise();
	take_signals();
	if (config.client >= 0) {
		/* The spawner is the first client and the owner: no moment is left between start and registration. */
		struct client *c = client_add(fcntl(config.client, F_DUPFD_CLOEXEC, FD_INHERITED + MAX_FDS + 2));
		close(config.client);
		nonblocking(c->fd);
		owners = c->owner = 1;
		client_read(c);
	}
	start_container();
	say_ready();
	loop();
}
