/* What clients ask for: their frames, as they arrive, and what is done about each. */
#pragma once

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

static void on_attach(struct client *c)
{
	if (!c->attached && c->payload[1]) {
		c->attached = 1;
		c->position = backlog_length;
		attached_count++;
	}
	c->wants_stdin |= c->payload[0] != 0;
	c->wants_exit = 1;
	answer(c, OK, "", 0);
}

static void on_resize(struct client *c)
{
	struct winsize size = {0};
	memcpy(&size.ws_row, c->payload, 2);
	memcpy(&size.ws_col, c->payload + 2, 2);
	if (!config.tty || output[0] < 0)
		answer_error(c, "the container has no terminal", 0);
	else if (ioctl(output[0], TIOCSWINSZ, &size) < 0)
		answer_error(c, "resize", errno);
	else
		answer(c, OK, "", 0);
}

static void on_signal(struct client *c)
{
	if (init_pidfd < 0)
		answer_error(c, ended ? "the process has ended" : "the process has not started", 0);
	else if (syscall(SYS_pidfd_send_signal, init_pidfd, (int)get32(c->payload), NULL, 0) < 0)
		answer_error(c, "signal", errno);
	else
		answer(c, OK, "", 0);
}

/* Descriptors: plan, control socket, launch program, [stdin, stdout, stderr when `stream` is 1], inherited ones. */
static void on_exec(struct client *c, int *fds, int count)
{
	int with_stdio = c->header[1] & 1, first = with_stdio ? 6 : 3, target[MAX_FDS + FD_INHERITED], pipe_fds[2], null = -1;
	u32 i = 0;
	while (i < MAX_EXECS && execs[i].report >= 0)
		i++;
	if (count < first || phase != RUNNING || init_pidfd < 0 || i == MAX_EXECS) {
		answer_error(c, count < first ? "exec without its descriptors" : i == MAX_EXECS ? "too many execs are starting"
		                                                                   : "the container is not running", 0);
		return;
	}
	if (pipe2(pipe_fds, O_CLOEXEC) < 0 || (null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) {
		answer_error(c, "exec", errno);
		return;
	}
	for (int k = 0; k < 3; k++)
		target[k] = with_stdio ? fds[3 + k] : null;
	target[FD_PLAN] = fds[0];
	target[FD_CONTROL] = fds[1];
	target[5] = pipe_fds[1];
	for (int k = first; k < count; k++)
		target[FD_INHERITED + k - first] = fds[k];
	execs[i].helper = spawn_helper(fds[2], target, FD_INHERITED + count - first);
	if (execs[i].helper < 0) {
		answer_error(c, "start the launch helper", errno);
		close(pipe_fds[0]);
	} else {
		nonblocking(pipe_fds[0]);
		execs[i].report = pipe_fds[0];
		execs[i].told = 0;
		execs[i].client = (u32)(c - clients);
		execs[i].serial = c->serial;
	}
	close(pipe_fds[1]);
	close(null);
}

/* Descriptor: the master of the terminal that was made inside the container. */
static void on_terminal(struct client *c, int *fds, int count)
{
	int master = count == 1 ? fcntl(fds[0], F_DUPFD_CLOEXEC, 3) : -1;
	if (!config.console || slave >= 0 || phase != RUNNING || master < 0)
		answer_error(c, "no terminal is waited for", 0);
	else if (take_master(master) < 0)
		answer_error(c, "take the terminal", errno);
	else {
		answer(c, OK, "", 0);
		return;
	}
	shut(&master);
}

/* Payload that a frame of each type must have; STDIN may have any. */
static const u8 payload_size[] = {[ATTACH] = 2, [RESIZE] = 4, [SIGNAL] = 4, [REOPEN] = 0};

static void on_frame(struct client *c)
{
	switch (c->header[0]) {
	case ATTACH:
		on_attach(c);
		break;
	case STDIN_EOF:
		stdin_end();
		break;
	case RESIZE:
		on_resize(c);
		break;
	case SIGNAL:
		on_signal(c);
		break;
	case WAIT:
		c->wants_exit = 1;
		c->told = 0;
		break;
	case OWN:
		owners += !c->owner;
		c->owner = 1;
		answer(c, OK, "", 0);
		break;
	case DONE:
		done |= c->owner;
		if (c->owner)
			answer(c, OK, "", 0);
		else
			answer_error(c, "only an owner can be done", 0);
		break;
	case REOPEN: {
		int error = log_reopen();
		if (error)
			answer_error(c, error == EBADF ? "there is no log" : "reopen the log", error == EBADF ? 0 : error);
		else
			answer(c, OK, "", 0);
		break;
	}
	case STATUS:
		answer_state(c);
		break;
	}
}

/* A header has come; false when it is not one of a client's frames. */
static int accept_header(struct client *c)
{
	u8 type = c->header[0];
	c->left = get32(c->header + 4);
	c->filled = 0;
	if (type < ATTACH || type > REOPEN)
		return 0;
	return type == STDIN ? c->left <= MAX_PAYLOAD : c->left == payload_size[type];
}

static ssize_t receive_header(struct client *c)
{
	union { struct cmsghdr align; u8 data[CMSG_SPACE(sizeof(int) * MAX_FDS)]; } control;
	struct iovec part = {c->header + c->have, (size_t)(HEADER - c->have)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(c->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *head = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	int fds[MAX_FDS], count = 0;
	if (n <= 0)
		return n;
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
		count = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(head), sizeof(int) * (size_t)count);
	}
	c->have += (u8)n;
	if (c->have == HEADER && !accept_header(c)) {
		answer_error(c, "malformed frame", 0);
		c->closing = 1;
	} else if (c->have == HEADER && c->header[0] == EXEC) {
		on_exec(c, fds, message.msg_flags & MSG_CTRUNC ? 0 : count);
		c->have = 0;
	} else if (c->have == HEADER && c->header[0] == TERMINAL) {
		on_terminal(c, fds, message.msg_flags & MSG_CTRUNC ? 0 : count);
		c->have = 0;
	}
	close_all(fds, count);
	return n;
}

static ssize_t receive_payload(struct client *c)
{
	static u8 discarded[4096];
	u8 *to = c->payload + c->filled;
	size_t room = c->left;
	ssize_t n;
	if (c->header[0] == STDIN) {
		int open = input >= 0 && !stdin_queue.eof;
		size_t space = open ? STDIN_BUFFER - stdin_queue.length : sizeof discarded;
		to = open ? stdin_queue.data + stdin_queue.length : discarded;
		room = room < space ? room : space;
	}
	n = recv(c->fd, to, room, MSG_DONTWAIT);
	if (n <= 0)
		return n;
	c->left -= (u32)n;
	if (c->header[0] != STDIN)
		c->filled += (u8)n;
	else if (to != discarded) {
		stdin_queue.length += (size_t)n;
		stdin_flush();
	}
	return n;
}

/* Whether this client may be read from: there is room for an answer, and for its input. */
static int client_readable(const struct client *c)
{
	if (c->closing || sizeof c->answers - c->answers_length < 128)
		return 0;
	return !(c->have == HEADER && c->header[0] == STDIN && c->left && input >= 0 && stdin_queue.length == STDIN_BUFFER);
}

static void client_read(struct client *c)
{
	for (int turns = 0; turns < 32 && c->fd >= 0 && client_readable(c); turns++) {
		ssize_t n = 1;
		if (c->have < HEADER)
			n = receive_header(c);
		else if (c->left)
			n = receive_payload(c);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			client_drop(c);
			return;
		}
		if (n < 0)
			break;
		if (c->have == HEADER && !c->left && !c->closing) {
			c->have = 0;
			on_frame(c);
		}
	}
	client_flush(c);
}

static struct client *client_add(int fd)
{
	u32 i = 0;
	while (i < MAX_CLIENTS && clients[i].fd >= 0 && i < client_top)
		i++;
	memset(&clients[i], 0, sizeof clients[i]);
	clients[i].fd = fd;
	clients[i].serial = ++client_serial;
	client_count++;
	if (i >= client_top)
		client_top = i + 1;
	return &clients[i];
}

static void accept_clients(void)
{
	int fd;
	while (client_count < MAX_CLIENTS && (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		client_read(client_add(fd));
}
