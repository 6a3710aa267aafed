/* Preloaded into the ranks of a job: makes calls on one rank fail for files whose path holds a text.

   FAILING_RANK: the rank; FAILING_PATH: the text; FAILING_ERRNO: the error; FAILING_AFTER: so many calls succeed before. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int left = -1;

static int fails(const char *path) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK"), *wanted = getenv("FAILING_RANK"), *text = getenv("FAILING_PATH");
    if (!rank || !wanted || !text || strcmp(rank, wanted) || !strstr(path, text))
        return 0;
    if (left < 0)
        left = atoi(getenv("FAILING_AFTER") ? getenv("FAILING_AFTER") : "0");
    if (left > 0) {
        left--;
        return 0;
    }
    errno = atoi(getenv("FAILING_ERRNO"));
    return 1;
}

static int fails_descriptor(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return fails(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *data, size_t size) {
    return fails_descriptor(descriptor) ? -1 : NEXT(write)(descriptor, data, size);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    return fails_descriptor(descriptor) ? -1 : NEXT(pwrite64)(descriptor, data, size, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return fails_descriptor(descriptor) ? -1 : NEXT(pwrite)(descriptor, data, size, offset);
}

int fsync(int descriptor) { return fails_descriptor(descriptor) ? -1 : NEXT(fsync)(descriptor); }

int rename(const char *from, const char *to) { return fails(to) ? -1 : NEXT(rename)(from, to); }

int link(const char *from, const char *to) { return fails(to) ? -1 : NEXT(link)(from, to); }
