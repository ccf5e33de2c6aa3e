/* What the targets share: without libFuzzer, a main that feeds files, or whole directories of them. */
#ifndef LIBFUZZER
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static unsigned samples;

static int feed_file(const char *path) {
  struct stat s;
  FILE *file = fopen(path, "rb");
  if (!file || fstat(fileno(file), &s)) { perror(path); return 2; }
  /* Its own block, of just that size, so that a step beyond its end is seen. */
  size_t size = (size_t)s.st_size;
  uint8_t *data = malloc(size ? size : 1);
  if (!data || fread(data, 1, size, file) != size) return 2;
  fclose(file);
  LLVMFuzzerTestOneInput(data, size);
  free(data);
  samples++;
  return 0;
}
static int feed(const char *path) {
  char whole[4096];
  int bad = 0;
  DIR *d = opendir(path);
  if (!d) return feed_file(path);
  for (struct dirent *x; !bad && (x = readdir(d));) {
    if (x->d_name[0] == '.') continue;
    snprintf(whole, sizeof whole, "%s/%s", path, x->d_name);
    bad = feed_file(whole);
  }
  closedir(d);
  return bad;
}
static int feed_all(int count, char **paths) {
  for (int i = 0; i < count; i++)
    if (feed(paths[i])) return 2;
  printf("%u\n", samples);
  return 0;
}
#endif
