/* The container's log: output becomes entries of json-file or CRI, which are written in batches; files are rotated, and
 * lines that could not be written are counted. */
#pragma once

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
	const char *name = errno_name(log_error);
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
