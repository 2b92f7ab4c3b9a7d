/* Faults below a process: put in front of the C library (LD_PRELOAD), it makes chosen operations on files below one directory
 * fail, and moves the wall clock. What to do is read from a file that the test writes; see preload.rs, which has the layout.
 *
 * Raw system calls are used throughout, so that nothing has to be looked up before main. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, GROW = 2, NAME = 4, REMOVE = 8, SYNC = 16, READ = 32 };

struct control {
    uint64_t operations; /* which kinds are counted and fail; 0: none */
    uint64_t at;         /* the number of the first one that fails, from 0 */
    uint64_t error;      /* with this errno */
    uint64_t lasting;    /* whether all later ones fail too */
    uint64_t count;      /* those so far */
    uint64_t failed;     /* those that failed */
    int64_t clock_ms;    /* added to the wall clock */
    uint64_t reserved;
    char below[4032];    /* the directory */
};

static struct control *control;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULTS_OF_HERALD");
    if (path == NULL) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) control = map;
    close(fd);
}

static int is_below(const char *path) {
    size_t len = strlen(control->below);
    return len > 0 && strncmp(path, control->below, len) == 0 && (path[len] == 0 || path[len] == '/');
}

static int is_wanted(int operation) {
    return control != NULL && (control->operations & operation) != 0;
}

static int is_wanted_fd(int operation, int fd) {
    if (!is_wanted(operation)) return 0;
    char link[64], path[4096];
    char *end = link + sizeof link;
    *--end = 0;
    unsigned number = (unsigned)fd;
    do { *--end = '0' + number % 10; number /= 10; } while (number > 0);
    const char prefix[] = "/proc/self/fd/";
    end -= sizeof prefix - 1;
    memcpy(end, prefix, sizeof prefix - 1);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, end, path, sizeof path - 1);
    if (len <= 0) return 0;
    path[len] = 0;
    return is_below(path);
}

static int is_wanted_path(int operation, const char *path) {
    return is_wanted(operation) && is_below(path);
}

/* Counts an operation. 0: do it; 1: do half of it; -1: fail. */
static int step(int can_halve) {
    uint64_t number = __atomic_fetch_add(&control->count, 1, __ATOMIC_SEQ_CST);
    uint64_t at = control->at;
    if (number < at) return 0;
    /* A disk that gets full takes a part of what is written before it says so. */
    int full = control->error == ENOSPC;
    if (full && can_halve && number == at) return 1;
    if (number > at && !control->lasting && !(full && number == at + 1)) return 0;
    __atomic_fetch_add(&control->failed, 1, __ATOMIC_SEQ_CST);
    errno = (int)control->error;
    return -1;
}

ssize_t write(int fd, const void *data, size_t len) {
    int what = is_wanted_fd(WRITE, fd) ? step(len > 1) : 0;
    if (what < 0) return -1;
    return syscall(SYS_write, fd, data, what == 1 ? len / 2 : len);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    int what = is_wanted_fd(WRITE, fd) ? step(len > 1) : 0;
    if (what < 0) return -1;
    return syscall(SYS_pwrite64, fd, data, what == 1 ? len / 2 : len, at);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return pwrite64(fd, data, len, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (is_wanted_fd(WRITE, fd) && step(0) < 0) return -1;
    return syscall(SYS_writev, fd, parts, count);
}

ssize_t read(int fd, void *data, size_t len) {
    if (is_wanted_fd(READ, fd) && step(0) < 0) return -1;
    return syscall(SYS_read, fd, data, len);
}

ssize_t pread64(int fd, void *data, size_t len, off64_t at) {
    if (is_wanted_fd(READ, fd) && step(0) < 0) return -1;
    return syscall(SYS_pread64, fd, data, len, at);
}

ssize_t pread(int fd, void *data, size_t len, off_t at) { return pread64(fd, data, len, at); }

int ftruncate64(int fd, off64_t len) {
    struct stat now;
    int grows = fstat(fd, &now) == 0 && now.st_size < len;
    if (is_wanted_fd(grows ? GROW : REMOVE, fd) && step(0) < 0) return -1;
    return syscall(SYS_ftruncate, fd, len);
}

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

int fallocate64(int fd, int mode, off64_t at, off64_t len) {
    if (is_wanted_fd(GROW, fd) && step(0) < 0) return -1;
    return syscall(SYS_fallocate, fd, mode, at, len);
}

int fallocate(int fd, int mode, off_t at, off_t len) { return fallocate64(fd, mode, at, len); }

int posix_fallocate64(int fd, off64_t at, off64_t len) {
    if (is_wanted_fd(GROW, fd) && step(0) < 0) return errno;
    return syscall(SYS_fallocate, fd, 0, at, len) == 0 ? 0 : errno;
}

int posix_fallocate(int fd, off_t at, off_t len) { return posix_fallocate64(fd, at, len); }

int fsync(int fd) {
    if (is_wanted_fd(SYNC, fd) && step(0) < 0) return -1;
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    if (is_wanted_fd(SYNC, fd) && step(0) < 0) return -1;
    return syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off64_t at, off64_t len, unsigned int flags) {
    if (is_wanted_fd(SYNC, fd) && step(0) < 0) return -1;
    return syscall(SYS_sync_file_range, fd, at, len, flags);
}

static int makes_a_file(int dir, const char *path, int flags) {
    return (flags & O_CREAT) != 0 && is_wanted_path(NAME, path) && syscall(SYS_faccessat, dir, path, F_OK) != 0;
}

static int open_at(int dir, const char *path, int flags, mode_t mode) {
    if (makes_a_file(dir, path, flags) && step(0) < 0) return -1;
    return syscall(SYS_openat, dir, path, flags, mode);
}

#define MODE(flags)                                  \
    mode_t mode = 0;                                 \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {         \
        va_list more;                                \
        va_start(more, flags);                       \
        mode = va_arg(more, mode_t);                 \
        va_end(more);                                \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_at(dir, path, flags, mode); }

int mkdir(const char *path, mode_t mode) {
    if (is_wanted_path(NAME, path) && step(0) < 0) return -1;
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int rename(const char *from, const char *to) {
    if (is_wanted_path(NAME, to) && step(0) < 0) return -1;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    if (is_wanted_path(REMOVE, path) && step(0) < 0) return -1;
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && control != NULL && control->clock_ms != 0) {
        int64_t ms = now->tv_nsec / 1000000 + control->clock_ms;
        int64_t seconds = ms / 1000;
        ms %= 1000;
        if (ms < 0) { ms += 1000; seconds -= 1; }
        now->tv_sec += seconds;
        now->tv_nsec = ms * 1000000 + now->tv_nsec % 1000000;
    }
    return result;
}
