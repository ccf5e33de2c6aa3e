/* The container's streams: pipes or a terminal, to the backlog and the log, and from the clients to its stdin. */
#pragma once

static void stdin_flush(void)
{
	size_t sent = 0;
	while (input >= 0 && sent < stdin_queue.length) {
		ssize_t n = write(input, stdin_queue.data + sent, stdin_queue.length - sent);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) { /* nobody reads it any more */
			shut(&input);
			sent = stdin_queue.length;
			break;
		}
		sent += (size_t)n;
	}
	stdin_queue.length -= sent;
	memmove(stdin_queue.data, stdin_queue.data + sent, stdin_queue.length);
	if (!stdin_queue.length && stdin_queue.eof && !config.tty)
		shut(&input);
}

/* End of input: a pipe is closed once it has drained; a terminal is told with its own end-of-file character. */
static void stdin_end(void)
{
	struct termios t;
	if (input < 0)
		return;
	if (!config.tty)
		stdin_queue.eof = 1;
	else if (stdin_queue.length < STDIN_BUFFER && tcgetattr(input, &t) == 0 && (t.c_lflag & ICANON))
		stdin_queue.data[stdin_queue.length++] = t.c_cc[VEOF];
	stdin_flush();
}

/* Read one chunk of output into the backlog, log it, and pass it on. 0: nothing there; -1: the stream has ended. */
static int output_read(int stream)
{
	u8 *frame = backlog + backlog_length;
	ssize_t n;
	do
		n = read(output[stream], frame + HEADER, CHUNK);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0) { /* EIO: a master whose slaves are all closed */
		shut(&output[stream]);
		return -1;
	}
	log_feed(stream, frame + HEADER, (size_t)n);
	if (!attached_count)
		return 1;
	put_header(frame, OUTPUT, (u8)(stream + 1), (u32)n);
	backlog_length += HEADER + (size_t)n;
	if (backlog_length > backlog_peak)
		backlog_peak = backlog_length;
	for (u32 i = 0; i < client_top; i++)
		if (clients[i].fd >= 0 && clients[i].attached)
			client_flush(&clients[i]);
	backlog_trim();
	return 1;
}

/* At the end nobody is waited for: a client that can't take the rest is dropped, the log gets everything. What a
 * foreign process may still be writing is bounded by the size of a pipe. */
static void output_finish(void)
{
	for (int stream = 0; stream < 2; stream++) {
		for (int chunks = 0; output[stream] >= 0 && chunks < 64; chunks++) {
			if (!backlog_room())
				for (u32 i = 0; i < client_top; i++)
					if (clients[i].attached && clients[i].position < backlog_length)
						client_drop(&clients[i]);
			backlog_trim();
			if (output_read(stream) <= 0)
				break;
		}
		shut(&output[stream]);
	}
	log_end();
}

/* The terminal's master becomes the container's output and input. 0, or -1 and errno. */
static int take_master(int master)
{
	struct winsize size = {.ws_row = config.rows, .ws_col = config.columns};
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return -1;
	if (config.rows && config.columns)
		ioctl(master, TIOCSWINSZ, &size);
	nonblocking(master);
	output[0] = master;
	input = fcntl(master, F_DUPFD_CLOEXEC, 3);
	return 0;
}

static void make_terminal(int stdio[3])
{
	int unlock = 0, master;
	if (config.console) { /* one is made inside the container; its master comes in a TERMINAL frame */
		for (int i = 0; i < 3; i++)
			if ((stdio[i] = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
				fail("open /dev/null", errno);
		return;
	}
	master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0)
		fail("open /dev/ptmx", errno);
	if (take_master(master) < 0)
		fail("open the terminal", errno);
	if (config.chown && fchown(slave, config.uid, (gid_t)-1) < 0)
		fail("chown the terminal", errno);
	stdio[0] = stdio[1] = stdio[2] = slave;
}

/* The pipes belong to the process's user, so that it may open /dev/stdout. */
static void make_pipe(int *ours, int *theirs, int writing)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		fail("pipe", errno);
	if (config.chown && fchown(fds[0], config.uid, config.gid) < 0)
		fail("chown a pipe", errno);
	*ours = fds[writing];
	*theirs = fds[!writing];
	nonblocking(*ours);
}

static void make_streams(int stdio[3])
{
	if (config.tty) {
		make_terminal(stdio);
		return;
	}
	if (config.keep_stdin)
		make_pipe(&input, &stdio[0], 1);
	else if ((stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0)
		fail("open /dev/null", errno);
	make_pipe(&output[0], &stdio[1], 0);
	make_pipe(&output[1], &stdio[2], 0);
}

/* Which pipes the container got, as /proc/PID/fd names them, a line for each stream: what else it was given, or has put
 * in their place since, is none. A checkpoint's pipes are found again by these names. */
static void note_streams(const int stdio[3])
{
	char text[128];
	size_t n = 0;
	struct stat st;
	int fd;
	for (int i = 0; i < 3; i++) {
		if (fstat(stdio[i], &st) == 0 && S_ISFIFO(st.st_mode)) {
			n += put_text(text + n, "pipe:[");
			n += put_number(text + n, st.st_ino);
			text[n++] = ']';
		}
		text[n++] = '\n';
	}
	fd = openat(state_fd, "streams", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, n) != (ssize_t)n)
		fail("note the streams", errno);
	shut(&fd);
}
