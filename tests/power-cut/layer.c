/*
 * Records a process's changes and syncs of the files in a directory, in order, so that a power cut can be simulated afterwards. It
 * changes nothing itself. Loaded into the broker with LD_PRELOAD (64-bit Linux).
 *
 *   POWER_CUT_ROOT         the directory, absolute; it must exist
 *   POWER_CUT_JOURNAL      the file of the records, absolute, outside the root
 *   POWER_CUT_IGNORE_SYNC  if set, syncs succeed without syncing, as on a disk that lies
 *
 * src/power_cut/journal.rs defines the meaning of the records. Two rules make them reliable even if the process is killed at any moment:
 *
 * - A change is made and recorded under one lock, and only then does the call return. So the records are in the order of the changes,
 *   and at most the last change has no record; its caller never learned that it succeeded.
 * - A sync's record states how far it covers the journal: up to the last record when the sync began. It is written after the sync.
 *
 * Files are identified by their inode numbers, looked up from the handle at each call, so duplicated and inherited handles work.
 * Operations that the library cannot record (a shared mapping, copy_file_range, ...) are recorded as unsupported, and the reader of
 * the records fails. System calls that bypass the C library are invisible; the reader detects them by comparing the directory after an
 * orderly stop with the replayed records.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "64 bits only: open and open64 are the same there");

enum kind {
    HAS_DIR = 1, HAS_FILE, CREATE, MKDIR, WRITE, TRUNCATE, ALLOCATE, RENAME, UNLINK, LINK, SYNC, SYNC_ALL, UNSUPPORTED
};

struct record {
    uint32_t magic, kind;
    uint64_t inode, other, offset, length;
    uint32_t name, second_name;
};

#define MAGIC 0x31435048u

#define REAL(name) ((__typeof__(&name))real((void **)&real_##name, #name))
#define DECLARE(name) static void *real_##name

static void *real(void **slot, const char *name) {
    void *found = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (!found) {
        found = dlsym(RTLD_NEXT, name);
        __atomic_store_n(slot, found, __ATOMIC_RELAXED);
    }
    return found;
}

DECLARE(open); DECLARE(openat); DECLARE(write); DECLARE(pwrite); DECLARE(writev); DECLARE(pwritev); DECLARE(pwritev2);
DECLARE(truncate); DECLARE(ftruncate); DECLARE(fallocate); DECLARE(posix_fallocate); DECLARE(renameat);
DECLARE(renameat2); DECLARE(unlinkat); DECLARE(linkat);
DECLARE(symlinkat); DECLARE(mkdirat); DECLARE(fsync); DECLARE(fdatasync); DECLARE(sync);
DECLARE(syncfs); DECLARE(mmap); DECLARE(copy_file_range); DECLARE(sync_file_range);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int journal = -1;
static int ignores_sync;
static dev_t device;
static uint64_t position;

static void die(const char *what) {
    dprintf(2, "power cut: %s: %s\n", what, strerror(errno));
    abort();
}

/* The inodes in the root: 'd' for directories, 'f' for files. Never removed, because a file may be written after it was unlinked. */
#define SLOTS (1u << 18)
static struct { uint64_t inode; char type; } known[SLOTS];
static unsigned known_count;

static char *slot_of(uint64_t inode, int add) {
    for (unsigned at = (unsigned)(inode * 0x9e3779b97f4a7c15u >> 40) % SLOTS;; at = (at + 1) % SLOTS) {
        if (known[at].inode == inode) return &known[at].type;
        if (known[at].inode == 0) {
            if (!add) return NULL;
            if (++known_count > SLOTS / 2) die("too many files");
            known[at].inode = inode;
            return &known[at].type;
        }
    }
}

static void know(uint64_t inode, char type) { *slot_of(inode, 1) = type; }

static char type_of(const struct stat *st) {
    char *slot = st->st_dev == device ? slot_of(st->st_ino, 0) : NULL;
    return slot ? *slot : 0;
}

static void put(const struct iovec *parts, int count) {
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    ssize_t n = REAL(writev)(journal, parts, count);
    if (n < 0) die("cannot write the journal");
    if ((size_t)n != total) {
        size_t skip = (size_t)n;
        for (int i = 0; i < count; i++) {
            const char *at = parts[i].iov_base;
            size_t left = parts[i].iov_len;
            if (skip >= left) { skip -= left; continue; }
            at += skip, left -= skip, skip = 0;
            while (left > 0) {
                n = REAL(write)(journal, at, left);
                if (n <= 0) die("cannot write the journal");
                at += n, left -= (size_t)n;
            }
        }
    }
    position += total;
}

/* Called with the lock held. */
static void record(enum kind kind, uint64_t inode, uint64_t other, uint64_t offset, uint64_t length, const char *name,
                   const char *second, const void *data) {
    struct record r = { MAGIC, kind, inode, other, offset, length, 0, 0 };
    r.name = name ? (uint32_t)strlen(name) : 0;
    r.second_name = second ? (uint32_t)strlen(second) : 0;
    struct iovec parts[] = {
        { &r, sizeof r }, { (void *)name, r.name }, { (void *)second, r.second_name },
        { (void *)data, data ? length : 0 },
    };
    put(parts, 4);
}

static void unsupported(const char *what) {
    pthread_mutex_lock(&lock);
    record(UNSUPPORTED, 0, 0, 0, 0, what, NULL, NULL);
    pthread_mutex_unlock(&lock);
}

/* The inode of an open file or directory in the root, or 0. */
static uint64_t tracked(int fd, char type) {
    int before = errno;
    struct stat st;
    uint64_t inode = 0;
    if (journal >= 0 && fd >= 0 && fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        pthread_mutex_lock(&lock);
        char found = type_of(&st);
        if (found && (found == type || type == 0)) inode = st.st_ino;
        pthread_mutex_unlock(&lock);
    }
    errno = before;
    return inode;
}

/* The last component of a path; sets `dir` to the inode of its directory, or to 0 if that is outside the root. */
static const char *split(int at, const char *path, uint64_t *dir, char *base) {
    char parent[PATH_MAX];
    int before = errno;
    struct stat st;
    *dir = 0;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    size_t cut = length;
    while (cut > 0 && path[cut - 1] != '/') cut--;
    if (journal < 0 || length - cut > NAME_MAX || cut >= sizeof parent) return path;
    memcpy(base, path + cut, length - cut);
    base[length - cut] = 0;
    memcpy(parent, path, cut);
    parent[cut] = 0;
    if (fstatat(at, cut ? parent : ".", &st, 0) == 0) {
        pthread_mutex_lock(&lock);
        if (type_of(&st) == 'd') *dir = st.st_ino;
        pthread_mutex_unlock(&lock);
    }
    errno = before;
    return base;
}

static void walk(int fd, const char *path) {
    DIR *dir = fdopendir(fd);
    if (!dir) die("cannot list the root");
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat st;
        char below[PATH_MAX];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW)) die("cannot stat a file");
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "/" : "", entry->d_name);
        know(st.st_ino, S_ISDIR(st.st_mode) ? 'd' : 'f');
        record(S_ISDIR(st.st_mode) ? HAS_DIR : HAS_FILE, st.st_ino, 0, 0, 0, below, NULL, NULL);
        if (S_ISDIR(st.st_mode)) walk(REAL(openat)(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY), below);
    }
    closedir(dir);
}

__attribute__((constructor)) static void begin(void) {
    const char *root = getenv("POWER_CUT_ROOT"), *path = getenv("POWER_CUT_JOURNAL");
    if (!root || !path) return;
    struct stat st;
    if (stat(root, &st)) die("cannot stat the root");
    ignores_sync = getenv("POWER_CUT_IGNORE_SYNC") != NULL;
    device = st.st_dev;
    know(st.st_ino, 'd');
    journal = REAL(open)(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (journal < 0) die("cannot create the journal");
    pthread_mutex_lock(&lock);
    record(HAS_DIR, st.st_ino, 0, 0, 0, "", NULL, NULL);
    walk(REAL(open)(root, O_RDONLY | O_DIRECTORY), "");
    pthread_mutex_unlock(&lock);
}

/* Opening, which may create and truncate. */
static int open_at(int at, const char *path, int flags, mode_t mode) {
    uint64_t dir;
    char base[NAME_MAX + 1];
    struct stat before, after;
    if (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE) return REAL(openat)(at, path, flags, mode);
    split(at, path, &dir, base);
    if (!dir) return REAL(openat)(at, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) unsupported("O_TMPFILE");
    pthread_mutex_lock(&lock);
    int was_there = fstatat(at, path, &before, 0) == 0;
    int fd = REAL(openat)(at, path, flags, mode), error = errno;
    if (fd >= 0 && fstat(fd, &after) == 0 && S_ISREG(after.st_mode)) {
        if (!was_there) {
            know(after.st_ino, 'f');
            record(CREATE, dir, after.st_ino, 0, 0, base, NULL, NULL);
        } else if ((flags & O_TRUNC) && type_of(&after) == 'f' && before.st_size > 0) {
            record(TRUNCATE, after.st_ino, 0, 0, 0, NULL, NULL, NULL);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __openat_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }
int __openat64_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* Writing. `offset` is -1 if the write is at the file's own position, which is then behind the written bytes afterwards. */
static ssize_t wrote(int fd, uint64_t inode, const struct iovec *parts, int count, off_t offset, ssize_t n) {
    int before = errno;
    if (n > 0) {
        int flags = fcntl(fd, F_GETFL);
        struct stat st;
        if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - n;
        else if ((flags & O_APPEND) && fstat(fd, &st) == 0) offset = st.st_size - n; /* as Linux does it */
        size_t left = (size_t)n;
        for (int i = 0; i < count && left > 0; i++) {
            size_t part = parts[i].iov_len < left ? parts[i].iov_len : left;
            if (part) record(WRITE, inode, 0, (uint64_t)offset, part, NULL, NULL, parts[i].iov_base);
            offset += (off_t)part, left -= part;
        }
    }
    errno = before;
    return n;
}

#define WRITING(fd, parts, count, offset, call) \
    uint64_t inode = tracked(fd, 'f'); \
    if (!inode) return call; \
    pthread_mutex_lock(&lock); \
    ssize_t n = wrote(fd, inode, parts, count, offset, call); \
    pthread_mutex_unlock(&lock); \
    return n;

#define ONE(data, length) ((struct iovec[]){ { (void *)(data), length } })

ssize_t write(int fd, const void *data, size_t length) {
    WRITING(fd, ONE(data, length), 1, -1, REAL(write)(fd, data, length))
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    WRITING(fd, ONE(data, length), 1, at, REAL(pwrite)(fd, data, length, at))
}
ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) {
    WRITING(fd, ONE(data, length), 1, at, REAL(pwrite)(fd, data, length, at))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    WRITING(fd, parts, count, -1, REAL(writev)(fd, parts, count))
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    WRITING(fd, parts, count, at, REAL(pwritev)(fd, parts, count, at))
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    WRITING(fd, parts, count, at, REAL(pwritev)(fd, parts, count, at))
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    WRITING(fd, parts, count, at, REAL(pwritev2)(fd, parts, count, at, flags))
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    WRITING(fd, parts, count, at, REAL(pwritev2)(fd, parts, count, at, flags))
}
ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t length, unsigned flags) {
    if (tracked(out, 'f')) unsupported("copy_file_range");
    return REAL(copy_file_range)(in, in_at, out, out_at, length, flags);
}

/* Lengths. */
static int resized(enum kind kind, uint64_t inode, off_t offset, off_t length, int result) {
    int before = errno;
    if (result == 0) record(kind, inode, 0, (uint64_t)offset, (uint64_t)length, NULL, NULL, NULL);
    errno = before;
    return result;
}

#define RESIZING(inode, kind, offset, length, call) \
    if (!(inode)) return call; \
    pthread_mutex_lock(&lock); \
    int result = resized(kind, inode, offset, length, call); \
    pthread_mutex_unlock(&lock); \
    return result;

static uint64_t tracked_path(const char *path) {
    struct stat st;
    uint64_t inode = 0;
    int before = errno;
    if (journal >= 0 && stat(path, &st) == 0) {
        pthread_mutex_lock(&lock);
        if (type_of(&st) == 'f') inode = st.st_ino;
        pthread_mutex_unlock(&lock);
    }
    errno = before;
    return inode;
}

int ftruncate(int fd, off_t length) {
    uint64_t inode = tracked(fd, 'f');
    RESIZING(inode, TRUNCATE, length, 0, REAL(ftruncate)(fd, length))
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }
int truncate(const char *path, off_t length) {
    uint64_t inode = tracked_path(path);
    RESIZING(inode, TRUNCATE, length, 0, REAL(truncate)(path, length))
}
int truncate64(const char *path, off_t length) { return truncate(path, length); }
int fallocate(int fd, int mode, off_t offset, off_t length) {
    uint64_t inode = tracked(fd, 'f');
    if (inode && mode) unsupported("fallocate with a mode");
    RESIZING(inode, ALLOCATE, offset, length, REAL(fallocate)(fd, mode, offset, length))
}
int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    uint64_t inode = tracked(fd, 'f');
    RESIZING(inode, ALLOCATE, offset, length, REAL(posix_fallocate)(fd, offset, length))
}
int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

/* Names. */
static int rename_at(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    uint64_t from_dir, to_dir;
    char from_base[NAME_MAX + 1], to_base[NAME_MAX + 1];
    split(from_at, from, &from_dir, from_base);
    split(to_at, to, &to_dir, to_base);
    if (!from_dir && !to_dir) {
        return flags ? REAL(renameat2)(from_at, from, to_at, to, flags) : REAL(renameat)(from_at, from, to_at, to);
    }
    if (!from_dir || !to_dir || (flags & RENAME_EXCHANGE)) unsupported("a rename into, out of or across the root");
    pthread_mutex_lock(&lock);
    int result = flags ? REAL(renameat2)(from_at, from, to_at, to, flags) : REAL(renameat)(from_at, from, to_at, to);
    int error = errno;
    if (result == 0) record(RENAME, from_dir, to_dir, 0, 0, from_base, to_base, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return rename_at(from_at, from, to_at, to, 0); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    return rename_at(from_at, from, to_at, to, flags);
}

int unlinkat(int at, const char *path, int flags) {
    uint64_t dir;
    char base[NAME_MAX + 1];
    split(at, path, &dir, base);
    if (!dir) return REAL(unlinkat)(at, path, flags);
    pthread_mutex_lock(&lock);
    int result = REAL(unlinkat)(at, path, flags), error = errno;
    if (result == 0) record(UNLINK, dir, 0, 0, 0, base, NULL, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlinkat(AT_FDCWD, path, 0);
    return result && (errno == EISDIR || errno == EPERM) ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

int mkdirat(int at, const char *path, mode_t mode) {
    uint64_t dir;
    char base[NAME_MAX + 1];
    struct stat st;
    split(at, path, &dir, base);
    if (!dir) return REAL(mkdirat)(at, path, mode);
    pthread_mutex_lock(&lock);
    int result = REAL(mkdirat)(at, path, mode), error = errno;
    if (result == 0) {
        if (fstatat(at, path, &st, 0)) die("cannot stat a new directory");
        know(st.st_ino, 'd');
        record(MKDIR, dir, st.st_ino, 0, 0, base, NULL, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    uint64_t dir;
    char base[NAME_MAX + 1];
    struct stat st;
    split(to_at, to, &dir, base);
    if (!dir) return REAL(linkat)(from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int result = REAL(linkat)(from_at, from, to_at, to, flags), error = errno;
    if (result == 0 && fstatat(to_at, to, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        int is_ours = type_of(&st) == 'f';
        record(is_ours ? LINK : UNSUPPORTED, dir, st.st_ino, 0, 0, is_ours ? base : "a link from outside", NULL, NULL);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *target, int at, const char *path) {
    uint64_t dir;
    char base[NAME_MAX + 1];
    split(at, path, &dir, base);
    if (dir) unsupported("a symbolic link");
    return REAL(symlinkat)(target, at, path);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

/* Syncs. */
static int synced(int fd, int (*sync_it)(int)) {
    uint64_t inode = tracked(fd, 0);
    if (!inode) return sync_it(fd);
    if (ignores_sync) return 0;
    pthread_mutex_lock(&lock);
    uint64_t covered = position;
    pthread_mutex_unlock(&lock);
    int result = sync_it(fd), error = errno;
    if (result == 0) {
        pthread_mutex_lock(&lock);
        record(SYNC, inode, 0, covered, 0, NULL, NULL, NULL);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

static void synced_all(uint64_t covered) {
    if (journal < 0 || ignores_sync) return;
    pthread_mutex_lock(&lock);
    record(SYNC_ALL, 0, 0, covered, 0, NULL, NULL, NULL);
    pthread_mutex_unlock(&lock);
}

int syncfs(int fd) {
    pthread_mutex_lock(&lock);
    uint64_t covered = position;
    pthread_mutex_unlock(&lock);
    int result = REAL(syncfs)(fd);
    if (result == 0) synced_all(covered);
    return result;
}
void sync(void) {
    pthread_mutex_lock(&lock);
    uint64_t covered = position;
    pthread_mutex_unlock(&lock);
    REAL(sync)();
    synced_all(covered);
}

/* By its own manual it guarantees neither the file's length nor the disk's cache, so it does not count as a sync. */
int sync_file_range(int fd, off_t offset, off_t length, unsigned flags) {
    return REAL(sync_file_range)(fd, offset, length, flags);
}

/* SQLite maps its index of the log, which it rebuilds after a crash. */
static void mapped(int fd, int protection, int flags) {
    if (!(protection & PROT_WRITE) || !(flags & MAP_SHARED) || !tracked(fd, 'f')) return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 4 || memcmp(path + n - 4, "-shm", 4)) unsupported("a shared mapping");
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0) mapped(fd, protection, flags);
    return REAL(mmap)(at, length, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(at, length, protection, flags, fd, offset);
}
