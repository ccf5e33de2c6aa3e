/* Feeds the shim what comes to it from outside: a client's frames, a container's output, the launch helper's report,
 * arguments. The first byte says which, the second how it is cut into pieces. What the shim keeps is looked at after
 * every piece: counts within their bounds, and a log of whole lines that are JSON.
 *
 * libFuzzer:  clang -g -fsanitize=fuzzer,address,undefined -DLIBFUZZER -o fuzz-shim native/fuzz/shim.c
 * otherwise:  cc -g -fsanitize=address,undefined -o fuzz-shim native/fuzz/shim.c; ./fuzz-shim FILE|DIRECTORY... */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdint.h>
#include <unistd.h>

static jmp_buf left_at;
static _Noreturn void leave_to_harness(int code) { longjmp(left_at, code + 1); }
#define _exit leave_to_harness
#define main shim_main
#include "../shim.c"
#undef main
#undef _exit

#define MUST(condition) do { if (!(condition)) __builtin_trap(); } while (0)

/* Frames: what one client sends, in pieces of up to `step` bytes, with and without a terminal or open input. */
static void check_client(const struct client *c)
{
	MUST(c->have <= HEADER && c->filled <= sizeof c->payload && c->answers_length <= sizeof c->answers);
	MUST((c->left <= MAX_PAYLOAD || c->closing) && stdin_queue.length <= STDIN_BUFFER);
	MUST(client_count <= 1 && attached_count <= client_count && owners >= 0 && owners <= 1);
}

static void discard(int fd)
{
	static u8 sink[65536];
	while (read(fd, sink, sizeof sink) > 0)
		;
}

static void frames(const u8 *data, size_t size, unsigned how)
{
	int ends[2], in[2], step = 1 + (how & 15) * (how & 15);
	struct client *c;
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) && !pipe2(in, O_NONBLOCK));
	config.tty = how >> 4 & 1;
	config.stdin_once = how >> 5 & 1;
	phase = how >> 6 & 1 ? ENDED : RUNNING;
	if (how & 128) {
		input = dup(in[1]);
		output[0] = dup(in[0]); /* not a terminal: RESIZE fails, as it must */
	}
	stdin_queue.length = 0;
	stdin_queue.eof = 0;
	owners = done = 0;
	client_top = client_count = attached_count = 0;
	c = client_add(ends[0]);
	for (size_t at = 0; at < size && c->fd >= 0; at += (size_t)step) {
		size_t n = size - at < (size_t)step ? size - at : (size_t)step;
		if (write(ends[1], data + at, n) != (ssize_t)n)
			break;
		client_read(c);
		check_client(c);
		discard(ends[1]);
		if (how & 8) /* else the container does not read its input, and the shim must hold back */
			discard(in[0]);
	}
	client_drop(c);
	MUST(!client_count && !attached_count && !owners);
	shut(&input);
	shut(&output[0]);
	close(ends[1]);
	close(in[0]);
	close(in[1]);
}

/* The log: output in pieces on both streams, into a file that is read back. */
static size_t check_entry(const u8 *s, const u8 *end)
{
	static const char start[] = "{\"log\":\"";
	const u8 *p = s + sizeof start - 1;
	MUST((size_t)(end - s) > sizeof start && !memcmp(s, start, sizeof start - 1));
	while (p < end && *p != '"') {
		size_t n = utf8(p, (size_t)(end - p));
		MUST(*p >= 0x20 && n && *p != '<' && *p != '>' && *p != '&');
		if (*p == '\\') {
			MUST(end - p > 6 && memchr("\\\"nru", p[1], 5));
			n = p[1] == 'u' ? 6 : 2;
			for (size_t i = 2; i < n; i++)
				MUST((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'));
		}
		p += n;
	}
	MUST(end - p > 40 && (!memcmp(p, "\",\"stream\":\"stdout\",\"time\":\"", 28) || !memcmp(p, "\",\"stream\":\"stderr\",\"time\":\"", 28)));
	p = memchr(p, '\n', (size_t)(end - p));
	MUST(p && p[-1] == '}' && p[-2] == '"' && p[-3] == 'Z');
	return (size_t)(p + 1 - s);
}

static void log_lines(const u8 *data, size_t size, unsigned how)
{
	static u8 back[1 << 20];
	size_t step = 1 + (size_t)(how & 63) * (how & 63) * 8;
	int file = memfd_create("log", 0);
	ssize_t length;
	MUST(file >= 0);
	memset(lines, 0, sizeof lines);
	memset(&batch, 0, sizeof batch);
	log_fd = dup(file);
	log_size = log_lost = log_noted = 0;
	for (size_t at = 0, turn = 0; at < size; at += step, turn++) {
		/* Repeated, so that few bytes make lines beyond the limits. */
		for (unsigned times = 0; times < (how & 64 ? 40 : 1); times++)
			log_feed(how & 128 ? (int)(turn & 1) : 0, data + at, size - at < step ? size - at : step);
		MUST(batch.length == 0 && lines[0].length < LINE_MAX_BYTES && lines[1].length < LINE_MAX_BYTES);
	}
	log_end();
	length = pread(file, back, sizeof back, 0);
	MUST(length >= 0 && (length == (ssize_t)sizeof back || (u64)length == log_size));
	for (const u8 *p = back, *end = back + length; p < end && length < (ssize_t)sizeof back;)
		p += check_entry(p, end);
	close(file);
}

/* The report of a launch helper, line by line or cut anywhere. */
static void reports(const u8 *data, size_t size)
{
	int fds[2], count;
	pid_t pids[MAX_STAGES];
	MUST(!pipe2(fds, O_NONBLOCK));
	if (size > 32768)
		size = 32768;
	MUST(write(fds[1], data, size) == (ssize_t)size);
	close(fds[1]);
	family_size = 0;
	while ((count = read_report(fds[0], pids)) > 0) {
		MUST(count <= MAX_STAGES);
		for (int i = 0; i < count; i++)
			family_add(pids[i]);
		MUST(family_size <= MAX_STAGES);
	}
	family_size = 0;
	close(fds[0]);
}

/* Arguments, each up to a NUL. */
static void arguments(const u8 *data, size_t size)
{
	static char text[4096], *argv[256];
	int argc = 1;
	if (size >= sizeof text)
		size = sizeof text - 1;
	memcpy(text, data, size);
	text[size] = 0;
	argv[0] = "orlop-shim";
	for (char *p = text; p < text + size && argc < 255; p += strlen(p) + 1)
		argv[argc++] = p;
	argv[argc] = NULL;
	memset(&config, 0, sizeof config);
	config.log_max_files = 1;
	config.launch = config.client = -1;
	if (!setjmp(left_at)) {
		parse(argc, argv);
		MUST(config.id && config.state && config.launch >= FD_INHERITED && config.launch <= FD_INHERITED + MAX_FDS);
		MUST(config.log_max_files >= 1 && config.log_max_files <= 1000);
		if (config.log) {
			char name[4096];
			MUST(strlen(log_name(name, config.log_max_files)) < sizeof name);
		}
	}
	memset(&config, 0, sizeof config);
}

/* A request to a spawner, and what the shim then shows of it where `how` says how much room there is. */
static void requests(const u8 *data, size_t size, unsigned how)
{
	static char shown[300];
	size_t room = 4 + how;
	int n;
	if (size > sizeof request)
		size = sizeof request;
	memcpy(request, data, size);
	n = split(size);
	MUST(n >= 0 && n <= MAX_WORDS && (!n || !words[n]));
	for (int i = 0; i < n; i++)
		MUST(words[i] >= request && words[i] + strlen(words[i]) < request + size);
	memset(shown, 'x', sizeof shown);
	shown[room] = 0;
	show(shown, shown + 2, n, words);
	MUST(shown[room] == '.' && strlen(shown) < room && shown[room + 1] == 'x');
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	if (size < 2)
		return 0;
	signal(SIGPIPE, SIG_IGN);
	if (ready_fd < 0)
		ready_fd = open("/dev/null", O_WRONLY);
	for (u32 i = 0; i < MAX_EXECS; i++)
		execs[i].report = -1;
	switch ((data[0] & 7) == 4 ? 4 : data[0] & 3) {
	case 0: frames(data + 2, size - 2, data[1]); break;
	case 1: log_lines(data + 2, size - 2, data[1]); break;
	case 2: reports(data + 2, size - 2); break;
	case 3: arguments(data + 2, size - 2); break;
	case 4: requests(data + 2, size - 2, data[1]); break;
	}
	return 0;
}

#include "fuzz.h"
#ifndef LIBFUZZER
int main(int argc, char **argv) { return feed_all(argc - 1, argv + 1); }
#endif
