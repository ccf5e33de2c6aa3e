/* Those who are connected to the shim's socket, the output that is kept for them, and what they are answered. */
#pragma once

/* Output is kept once for all clients, as the frames they receive; each client has a position in it. */
static u8 backlog[BACKLOG_HARD];
static size_t backlog_length, backlog_peak;

static struct client {
	int fd; /* -1: free */
	u8 attached, wants_stdin, wants_exit, told, owner, closing;
	u8 header[HEADER], have; /* the frame that is coming in: bytes of its header, */
	u32 left;                /* bytes of its payload that are missing, */
	u8 payload[16], filled;  /* and the payload, unless it is for stdin */
	size_t position;         /* in the backlog */
	u32 frame_left;          /* bytes of the output frame that is going out */
	u8 answers[384];         /* small frames that go between output frames */
	u32 answers_length, serial;
} clients[MAX_CLIENTS];
static u32 client_count, attached_count, client_top, client_serial;

static struct { pid_t helper; int report, told; u32 client, serial; } execs[MAX_EXECS]; /* report -1: free */

static void stdin_end(void);

static void client_drop(struct client *c)
{
	if (c->fd < 0)
		return;
	close(c->fd);
	c->fd = -1;
	client_count--;
	attached_count -= c->attached;
	owners -= c->owner;
	/* Docker's StdinOnce does not apply to a terminal: detaching from it leaves it usable. */
	if (c->wants_stdin && config.stdin_once && !config.tty)
		stdin_end();
}

static u32 get32(const u8 *p)
{
	u32 v;
	memcpy(&v, p, 4);
	return v; /* both supported machines are little endian, as the frames are */
}

static void put_header(u8 *to, u8 type, u8 stream, u32 length)
{
	memset(to, 0, HEADER);
	to[0] = type;
	to[1] = stream;
	memcpy(to + 4, &length, 4);
}

static void answer(struct client *c, u8 type, const void *payload, u32 length)
{
	if (c->answers_length + HEADER + length > sizeof c->answers) {
		c->closing = 1; /* cannot happen: frames are only read while there is room for an answer */
		return;
	}
	put_header(c->answers + c->answers_length, type, 0, length);
	memcpy(c->answers + c->answers_length + HEADER, payload, length);
	c->answers_length += HEADER + length;
}

static void answer_error(struct client *c, const char *text, int error)
{
	char line[96];
	const char *name = error ? errno_name(error) : NULL;
	size_t n = put_text(line, text);
	if (name) {
		n += put_text(line + n, ": ");
		n += put_text(line + n, name);
	}
	answer(c, ERROR, line, (u32)n);
}

static void answer_exit(struct client *c)
{
	u8 payload[16];
	int32_t code = exit_code, sig = exit_signal;
	memcpy(payload, &code, 4);
	memcpy(payload + 4, &sig, 4);
	memcpy(payload + 8, &exit_time, 8);
	answer(c, EXIT, payload, 16);
	c->told = 1;
}

static void answer_state(struct client *c)
{
	u8 payload[32] = {0};
	int32_t pid = init;
	memcpy(payload, &pid, 4);
	memcpy(payload + 4, &attached_count, 4);
	memcpy(payload + 8, &start_time, 8);
	memcpy(payload + 16, &log_lost, 8);
	payload[24] = (u8)(phase != RUNNING);
	payload[25] = (u8)config.tty;
	payload[26] = input >= 0 && !stdin_queue.eof;
	answer(c, STATE, payload, 32);
}

/* Note that `n` more bytes of the backlog went out, and where that leaves the current frame. */
static void client_advance(struct client *c, size_t n)
{
	while (n) {
		size_t step;
		if (!c->frame_left)
			c->frame_left = HEADER + get32(backlog + c->position + 4);
		step = n < c->frame_left ? n : c->frame_left;
		c->frame_left -= (u32)step;
		c->position += step;
		n -= step;
	}
}

/* Send until the socket is full or nothing is left. Answers go between frames; EXIT goes when all output has gone. */
static void client_flush(struct client *c)
{
	while (c->fd >= 0) {
		int answering = !c->frame_left && c->answers_length;
		const u8 *from = answering ? c->answers : backlog + c->position;
		size_t size = answering ? c->answers_length : c->attached ? backlog_length - c->position : 0;
		ssize_t n;
		if (!size) {
			if (phase < ENDED || !c->wants_exit || c->told)
				break;
			answer_exit(c);
			continue;
		}
		n = send(c->fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				client_drop(c);
			return;
		}
		if (answering) {
			c->answers_length -= (u32)n;
			memmove(c->answers, c->answers + n, c->answers_length);
			if (c->answers_length)
				return; /* the rest must go before any frame does */
		} else
			client_advance(c, (size_t)n);
	}
	if (c->fd >= 0 && c->closing)
		client_drop(c);
}

static int client_pending(const struct client *c)
{
	return c->answers_length || (c->attached && c->position < backlog_length) ||
	       (phase >= ENDED && c->wants_exit && !c->told);
}

/* Forget what every attached client has been sent. */
static void backlog_trim(void)
{
	size_t slowest = backlog_length;
	for (u32 i = 0; i < client_top; i++)
		if (clients[i].fd >= 0 && clients[i].attached && clients[i].position < slowest)
			slowest = clients[i].position;
	if (!slowest)
		return;
	backlog_length -= slowest;
	memmove(backlog, backlog + slowest, backlog_length);
	for (u32 i = 0; i < client_top; i++)
		if (clients[i].fd >= 0 && clients[i].attached)
			clients[i].position -= slowest;
	if (!backlog_length && backlog_peak > BACKLOG_COLD) {
		uintptr_t from = ((uintptr_t)backlog + BACKLOG_COLD + 4095) & ~(uintptr_t)4095;
		madvise((void *)from, ((uintptr_t)backlog + sizeof backlog - from) & ~(uintptr_t)4095, MADV_DONTNEED);
		backlog_peak = 0;
	}
}

static int backlog_room(void)
{
	size_t limit = phase == RUNNING ? BACKLOG_SOFT : BACKLOG_HARD;
	if (!backlog_length)
		return 1;
	if (limit - backlog_length < HEADER + CHUNK)
		backlog_trim();
	return limit - backlog_length >= HEADER + CHUNK;
}
