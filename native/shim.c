/* orlop-shim: supervises one container.
 *
 * It is the parent of the container's first process (init): it owns the standard streams or the terminal, copies output
 * to attached clients and to a log (json-file or CRI), answers clients on a unix socket, and records the exit status durably.
 * It decides nothing about the container: what to start is a plan that the launch helper executes.
 *
 * One thread, one poll(2) loop, no heap, no stdio: its private memory is the standing cost of a container.
 * src/orlop/shim/spawn.py describes the arguments and descriptors, src/orlop/wire/frames.py the frames.
 */
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

/* Before the shim is ready: one line for the spawner, "what: ERRNO". */
static void fail(const char *what, int error)
{
	char line[512];
	const char *name = error ? strerrorname_np(error) : NULL;
	size_t n = strnlen(what, 400);
	memcpy(line, what, n);
	if (error) {
		n += put_text(line + n, ": ");
		n += put_text(line + n, name ? name : "unknown error");
	}
	line[n++] = '\n';
	if (write(ready_fd, line, n) < 0)
		_exit(2);
	_exit(1);
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
static u64 oom_before;
static int owners, done;

static struct { pid_t pid; int status, reaped; } family[MAX_STAGES]; /* what the plan's stages cloned */
static u32 family_size;
static struct { pid_t pid; int status; } orphans[MAX_ORPHANS]; /* reaped, perhaps before anybody knew whose they were */
static u32 orphan_next;

static struct { u8 data[STDIN_BUFFER]; size_t length; int eof; } stdin_queue;

/* --- the log ------------------------------------------------------------------------------------------------- */

static int log_fd = -1, log_error;
static u64 log_size, log_lost, log_noted; /* bytes in the file; lines lost to write errors; of these, noted in the batch */
static struct { u8 data[LOG_BATCH + ENTRY_MAX + 512]; size_t length; u32 lines; } batch;
static struct { u8 data[LINE_MAX_BYTES]; size_t length; int partial; char time[40]; size_t time_length; } lines[2];

/* RFC 3339 with nanoseconds, trailing zeros cut (Go's RFC3339Nano), UTC. By hand: gmtime reads the time zone files. */
static size_t put_time(char *to, struct timespec t)
{
	int64_t days = t.tv_sec / 86400, second = t.tv_sec % 86400;
	/* Civil date from days, with March as the first month, so that the leap day is the last of its year. */
	int64_t z = days + 719468, era = z / 146097, day = z - era * 146097;
	int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
	int64_t in_year = day - (365 * year + year / 4 - year / 100), m = (5 * in_year + 2) / 153;
	int64_t month = m < 10 ? m + 3 : m - 9;
	char *p = to;
	p += put_padded(p, (u32)(year + era * 400 + (month <= 2)), 4);
	*p++ = '-';
	p += put_padded(p, (u32)month, 2);
	*p++ = '-';
	p += put_padded(p, (u32)(in_year - (153 * m + 2) / 5 + 1), 2);
	*p++ = 'T';
	p += put_padded(p, (u32)(second / 3600), 2);
	*p++ = ':';
	p += put_padded(p, (u32)(second / 60 % 60), 2);
	*p++ = ':';
	p += put_padded(p, (u32)(second % 60), 2);
	if (t.tv_nsec) {
		*p++ = '.';
		p += put_padded(p, (u32)t.tv_nsec, 9);
		while (p[-1] == '0')
			p--;
	}
	*p++ = 'Z';
	return (size_t)(p - to);
}

/* Length of the UTF-8 sequence at `s`, 0 when it is not one. Overlong forms, surrogates and > U+10FFFF are not. */
static size_t utf8(const u8 *s, size_t n)
{
	u8 a = s[0], low = 0x80, high = 0xbf;
	size_t length = a < 0xc2 ? 0 : a < 0xe0 ? 2 : a < 0xf0 ? 3 : a < 0xf5 ? 4 : 0;
	if (a < 0x80)
		return 1;
	if (!length || n < length)
		return 0;
	if (a == 0xe0)
		low = 0xa0;
	else if (a == 0xed)
		high = 0x9f;
	else if (a == 0xf0)
		low = 0x90;
	else if (a == 0xf4)
		high = 0x8f;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return length;
}

/* A string's inside as Docker's json-file driver escapes it: also < > & and U+2028/9; bytes that are not UTF-8 become
 * U+FFFD, one each. */
static size_t put_json(u8 *to, const u8 *s, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	u8 *p = to;
	for (size_t i = 0; i < n;) {
		u8 c = s[i];
		if (c >= 0x80) {
			size_t length = utf8(s + i, n - i);
			if (!length) {
				p += put_text((char *)p, "\\ufffd");
				i++;
			} else if (length == 3 && c == 0xe2 && s[i + 1] == 0x80 && (s[i + 2] & 0xfe) == 0xa8) {
				p += put_text((char *)p, s[i + 2] & 1 ? "\\u2029" : "\\u2028");
				i += 3;
			} else {
				memcpy(p, s + i, length);
				p += length;
				i += length;
			}
			continue;
		}
		i++;
		if (c == '\\' || c == '"') {
			*p++ = '\\';
			*p++ = c;
		} else if (c == '\n' || c == '\r') {
			*p++ = '\\';
			*p++ = c == '\n' ? 'n' : 'r';
		} else if (c < 0x20 || c == '<' || c == '>' || c == '&') {
			p += put_text((char *)p, "\\u00");
			*p++ = (u8)hex[c >> 4];
			*p++ = (u8)hex[c & 15];
		} else
			*p++ = c;
	}
	return (size_t)(p - to);
}

/* As kubelet reads it: `TIME stdout F text`, with P instead of F where the line goes on. Bytes stay as they are. */
static size_t put_cri(u8 *to, int stream, const u8 *s, size_t n, int newline, const char *time, size_t time_length)
{
	u8 *p = to;
	memcpy(p, time, time_length);
	p += time_length;
	p += put_text((char *)p, stream ? " stderr " : " stdout ");
	p += put_text((char *)p, newline ? "F " : "P ");
	memcpy(p, s, n);
	p[n] = '\n';
	return (size_t)(p - to) + n + 1;
}

static size_t put_entry(u8 *to, int stream, const u8 *s, size_t n, int newline, const char *time, size_t time_length)
{
	u8 *p = to;
	if (config.cri)
		return put_cri(to, stream, s, n, newline, time, time_length);
	p += put_text((char *)p, "{\"log\":\"");
	p += put_json(p, s, n);
	if (newline)
		p += put_text((char *)p, "\\n");
	p += put_text((char *)p, stream ? "\",\"stream\":\"stderr\",\"time\":\"" : "\",\"stream\":\"stdout\",\"time\":\"");
	memcpy(p, time, time_length);
	p += time_length;
	p += put_text((char *)p, "\"}\n");
	return (size_t)(p - to);
}

/* Write the batch. A failure (a full disk) loses its lines, which the next entry that can be written will say; a part
 * that was written is cut off again, so that the file holds whole lines only. */
static void log_flush(void)
{
	size_t written = 0;
	while (written < batch.length) {
		ssize_t n = write(log_fd, batch.data + written, batch.length - written);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			log_error = n ? errno : ENOSPC;
			break;
		}
		written += (size_t)n;
	}
	if (written == batch.length) {
		log_size += written;
		log_lost -= log_noted;
	} else {
		if (written && ftruncate(log_fd, (off_t)log_size) < 0)
			log_size += written;
		log_lost += batch.lines;
	}
	log_noted = 0;
	batch.lines = 0;
	batch.length = 0;
}

static const char *log_name(char *to, u32 number)
{
	size_t n = put_text(to, config.log);
	if (number) {
		to[n++] = '.';
		n += put_number(to + n, number);
	}
	to[n] = 0;
	return to;
}

/* FILE -> FILE.1 -> ... The new file exists before anything moves: where it can't be made, the old one grows on. A kill
 * between two renames leaves a gap in the numbers (readers expect gaps), never a lost or doubled line. */
static void log_rotate(void)
{
	static char from[4096], to[4096];
	size_t n = put_text(from, config.log);
	int fd;
	memcpy(from + n, ".new", 5);
	fd = open(from, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0)
		return;
	for (u32 i = config.log_max_files - 1; i > 0; i--)
		rename(log_name(from, i - 1), log_name(to, i));
	n = put_text(from, config.log);
	memcpy(from + n, ".new", 5);
	if (rename(from, config.log) < 0) {
		close(fd);
		return;
	}
	dup3(fd, log_fd, O_CLOEXEC);
	close(fd);
	log_size = 0;
}

static void log_note(void);

static void log_entry(int stream, const u8 *s, size_t n, int newline, const char *time, size_t time_length)
{
	size_t size;
	if (log_lost > log_noted)
		log_note();
	size = put_entry(batch.data + batch.length, stream, s, n, newline, time, time_length);
	if (config.log_max_size && log_size + batch.length && log_size + batch.length + size > config.log_max_size) {
		size_t before = batch.length;
		log_flush();
		log_rotate();
		memmove(batch.data, batch.data + before, size);
	}
	batch.length += size;
	batch.lines++;
	if (batch.length >= LOG_BATCH)
		log_flush();
}

static void log_note(void)
{
	char text[128], time[40];
	const char *name = strerrorname_np(log_error);
	struct timespec now;
	size_t n = put_text(text, "orlop: ");
	clock_gettime(CLOCK_REALTIME, &now);
	n += put_number(text + n, log_lost);
	n += put_text(text + n, " lines of this log were lost: ");
	n += put_text(text + n, name ? name : "write error");
	batch.length += put_entry(batch.data + batch.length, 1, (u8 *)text, n, 1, time, put_time(time, now));
	log_noted = log_lost;
}

/* Where to cut a long line: at the limit, but not inside a character. */
static size_t cut(const u8 *s, size_t n)
{
	for (size_t back = 1; back < 4; back++)
		if ((s[n - back] & 0xc0) != 0x80)
			return s[n - back] >= 0xc0 && utf8(s + n - back, back) == 0 ? n - back : n;
	return n;
}

/* Pieces of one long line carry the time of the first. */
static void log_piece(int stream, const u8 *s, size_t n, int newline, const char *time, size_t time_length)
{
	__typeof__(lines[0]) *line = &lines[stream];
	if (line->partial)
		log_entry(stream, s, n, newline, line->time, line->time_length);
	else
		log_entry(stream, s, n, newline, time, time_length);
	if (!newline && !line->partial) {
		memcpy(line->time, time, time_length);
		line->time_length = time_length;
	}
	line->partial = !newline;
}

static void log_feed(int stream, const u8 *s, size_t n)
{
	__typeof__(lines[0]) *line = &lines[stream];
	char time[40];
	size_t time_length;
	struct timespec now;
	if (log_fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	time_length = put_time(time, now);
	while (n) {
		const u8 *newline = memchr(s, '\n', n);
		size_t length = newline ? (size_t)(newline - s) : n, room = LINE_MAX_BYTES - line->length;
		if (newline && !line->length && length <= LINE_MAX_BYTES) {
			log_piece(stream, s, length, 1, time, time_length);
			s += length + 1;
			n -= length + 1;
			continue;
		}
		if (newline && length <= room) {
			memcpy(line->data + line->length, s, length);
			log_piece(stream, line->data, line->length + length, 1, time, time_length);
			line->length = 0;
			s += length + 1;
			n -= length + 1;
			continue;
		}
		if (length > room)
			length = room;
		memcpy(line->data + line->length, s, length);
		line->length += length;
		s += length;
		n -= length;
		if (line->length == LINE_MAX_BYTES) {
			size_t whole = cut(line->data, line->length);
			log_piece(stream, line->data, whole, 0, time, time_length);
			memmove(line->data, line->data + whole, line->length - whole);
			line->length -= whole;
		}
	}
	log_flush();
}

/* The end: what came after the last newline is logged without one. */
static void log_end(void)
{
	char time[40];
	struct timespec now;
	if (log_fd < 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	for (int i = 0; i < 2; i++)
		if (lines[i].length)
			log_piece(i, lines[i].data, lines[i].length, 0, time, put_time(time, now));
	log_flush();
	if (log_lost) {
		log_note();
		log_flush();
	}
	shut(&log_fd);
}

/* A log that was cut by a crash ends in the middle of a line: end that line, so that only it is damaged. */
static void log_open(void)
{
	struct stat st;
	char last;
	if (!config.log)
		return;
	log_fd = open(config.log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (log_fd < 0 || fstat(log_fd, &st) < 0)
		fail("open log", errno);
	log_size = (u64)st.st_size;
	if (log_size && pread(log_fd, &last, 1, st.st_size - 1) == 1 && last != '\n' && write(log_fd, "\n", 1) == 1)
		log_size++;
}

/* Whoever rotates the log has moved the file away: go on in a new one. Without one, in the old. */
static int log_reopen(void)
{
	struct stat st;
	int fd;
	if (log_fd < 0)
		return EBADF;
	log_flush();
	fd = open(config.log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0)
		return errno;
	dup3(fd, log_fd, O_CLOEXEC);
	close(fd);
	log_size = fstat(log_fd, &st) < 0 ? 0 : (u64)st.st_size;
	return 0;
}

/* --- clients ------------------------------------------------------------------------------------------------- */

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
	const char *name = error ? strerrorname_np(error) : NULL;
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

/* --- the container's streams --------------------------------------------------------------------------------- */

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

/* --- processes ----------------------------------------------------------------------------------------------- */

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
	while (read(signals, &info, sizeof info) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		reaped(pid, status);
}

/* Number after "oom_kill " in the memory cgroup's events (v2: memory.events, v1: memory.oom_control). */
static u64 oom_kills(void)
{
	char text[512], *p;
	int fd = config.oom ? open(config.oom, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	shut(&fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	p = strstr(text, "oom_kill ");
	return p ? strtoull(p + 9, NULL, 10) : 0;
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
	text[n++] = oom_kills() > oom_before ? '1' : '0';
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

/* --- frames from clients ------------------------------------------------------------------------------------- */

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

static struct pollfd polled[5 + 2 + MAX_EXECS + MAX_CLIENTS];

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
		if (polled[0].revents)
			children();
		if (polled[3].revents)
			stdin_flush();
		for (int i = 0; i < 2; i++)
			if (polled[4 + i].revents && output[i] >= 0 && backlog_room())
				output_read(i);
		for (u32 i = 0; i < MAX_EXECS; i++)
			if (polled[6 + i].revents)
				exec_ready(i);
		for (u32 i = 0; i < seen; i++)
			poll_client(&clients[i], polled[6 + MAX_EXECS + i].fd, polled[6 + MAX_EXECS + i].revents);
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
	pid_t pid = fork();
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
	oom_before = oom_kills();
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
