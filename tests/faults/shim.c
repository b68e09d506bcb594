/* Faults of a disk, for one process: loaded before the C library, armed by `fault_arm`, harmless until then.

   Counted are the calls that change what lies below a folder: write, pwrite, writev and their kin, fsync, fdatasync,
   ftruncate, rename, link, unlink, rmdir, mkdir, copy_file_range, sendfile. What is not seen: stores through mmap (the
   `-shm` file of SQLite, which holds nothing that must survive), writes inside the C library's own stdio, truncation
   by open.

   KILL   the process is killed before the n-th call; of a write, the first half is done.
   EIO    the n-th call fails with EIO, once.
   ENOSPC after n bytes every write fails with ENOSPC; the write that reaches the limit takes what still fits.
   POWER  the process is killed before the n-th call, and what the disk would hold after a power cut is in a shadow.

   The shadow knows the strictest disk that POSIX allows: the bytes of a file are durable as they were at its last fsync
   or fdatasync, the names in a folder as they were at the last fsync of the folder. Nothing else ever is. A real disk
   may keep more, and may tear the last write; the first is what programs wrongly count on, the second is left to
   SQLite's own tests. `inodes/KEY` holds the bytes of a file, `dirs/KEY` the names in a folder ("f KEY NAME"), `root` the
   key of the top; a key is the inode's number with its time of birth, since numbers are used again. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, KILL, EIO_ONCE, ENOSPC_AFTER, POWER };

struct counts {
    long calls;
    long bytes;
    long fired;
};

static int kind = OFF;
static long limit;
static char root[PATH_MAX];
static size_t root_length;
static char shadow[PATH_MAX];
static struct counts unshared, *counts = &unshared;
static pthread_mutex_t capturing = PTHREAD_MUTEX_INITIALIZER;
static int armed;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* Which calls are meant */

static int below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int path_of(int fd, char *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, found, PATH_MAX - 1);
    if (length < 0) return 0;
    found[length] = 0;
    return 1;
}

static int fd_below(int fd) {
    char path[PATH_MAX];
    return armed && path_of(fd, path) && below(path);
}

static int name_below(int folder, const char *path) {
    char whole[PATH_MAX];
    if (!armed) return 0;
    if (path[0] == '/') return below(path);
    if (folder == AT_FDCWD) return getcwd(whole, sizeof whole) && below(whole);
    return path_of(folder, whole) && below(whole);
}

/* What happens to them */

static void die(void) {
    __atomic_store_n(&counts->fired, 1, __ATOMIC_SEQ_CST);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count a call; 1 if it is to fail with errno as it stands now. */
static int fails(void) {
    long number = __atomic_add_fetch(&counts->calls, 1, __ATOMIC_SEQ_CST);
    if (number != limit) return 0;
    if (kind == KILL || kind == POWER) die();
    if (kind != EIO_ONCE) return 0;
    __atomic_store_n(&counts->fired, 1, __ATOMIC_SEQ_CST);
    errno = EIO;
    return 1;
}

/* Count a write; how many of its bytes may be written, or -1 if it is to fail with errno as it stands now. */
static ssize_t room(size_t wanted) {
    long number = __atomic_add_fetch(&counts->calls, 1, __ATOMIC_SEQ_CST);
    if (number == limit && kind == POWER) die();
    if (number == limit && kind == KILL) return wanted > 1 ? (ssize_t)(wanted / 2) : 0;
    if (number == limit && kind == EIO_ONCE) {
        __atomic_store_n(&counts->fired, 1, __ATOMIC_SEQ_CST);
        errno = EIO;
        return -1;
    }
    long before = __atomic_fetch_add(&counts->bytes, (long)wanted, __ATOMIC_SEQ_CST);
    if (kind != ENOSPC_AFTER || before + (long)wanted <= limit) return (ssize_t)wanted;
    __atomic_store_n(&counts->fired, 1, __ATOMIC_SEQ_CST);
    if (before < limit) return limit - before;
    errno = ENOSPC;
    return -1;
}

/* After the half of a write that a kill allows. */
static void after_write(size_t wanted, ssize_t allowed) {
    if (kind == KILL && (size_t)allowed < wanted) die();
}

/* The shadow */

static int key_of(int fd, char *key) {
    struct statx found;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &found)) return 0;
    sprintf(key, "%llx-%llx-%x", (unsigned long long)found.stx_ino, (unsigned long long)found.stx_btime.tv_sec,
            found.stx_btime.tv_nsec);
    return 1;
}

static void put(const char *kind_of, const char *key, const char *bytes_of, int fd) {
    char place[PATH_MAX + 300], partial[PATH_MAX + 300], data[1 << 16];
    snprintf(place, sizeof place, "%s/%s/%s", shadow, kind_of, key);
    snprintf(partial, sizeof partial, "%s/%s/.%d", shadow, kind_of, getpid());
    int out = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0) abort();
    if (bytes_of != NULL) {
        if (REAL(write)(out, bytes_of, strlen(bytes_of)) < 0) abort();
    } else {
        ssize_t length;
        off_t at = 0;
        while ((length = pread(fd, data, sizeof data, at)) > 0) {
            if (REAL(write)(out, data, (size_t)length) != length) abort();
            at += length;
        }
        if (length < 0) abort();
    }
    close(out);
    if (REAL(rename)(partial, place)) abort();
}

static void capture_folder(int fd, const char *key) {
    size_t size = 1 << 12, used = 0;
    char *text = malloc(size), child[100];
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = again < 0 ? NULL : fdopendir(again);
    if (text == NULL || folder == NULL) abort();
    text[0] = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        int one = openat(fd, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        struct stat about;
        if (one < 0) continue; /* gone meanwhile */
        if (fstat(one, &about) == 0 && key_of(one, child)) {
            size_t needed = used + strlen(child) + strlen(entry->d_name) + 5;
            if (needed > size) text = realloc(text, size = 2 * needed);
            if (text == NULL) abort();
            used += (size_t)sprintf(text + used, "%c %s %s\n", S_ISDIR(about.st_mode) ? 'd' : 'f', child, entry->d_name);
        }
        close(one);
    }
    closedir(folder);
    put("dirs", key, text, -1);
    free(text);
}

static void capture(int fd) {
    char path[PATH_MAX], key[100];
    struct stat about;
    int saved = errno;
    if (!path_of(fd, path) || fstat(fd, &about) || !key_of(fd, key)) abort();
    pthread_mutex_lock(&capturing);
    if (S_ISDIR(about.st_mode)) {
        capture_folder(fd, key);
    } else {
        char self[64];
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        int readable = open(self, O_RDONLY | O_CLOEXEC); /* the file may be open for writing only */
        if (readable < 0) abort();
        put("inodes", key, NULL, readable);
        close(readable);
    }
    pthread_mutex_unlock(&capturing);
    errno = saved;
}

static int capture_at_first(const char *path, const struct stat *about, int type, struct FTW *where) {
    (void)where;
    if (type != FTW_F && type != FTW_D) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | (S_ISDIR(about->st_mode) ? O_DIRECTORY : 0));
    if (fd >= 0) capture(fd);
    if (fd >= 0) close(fd);
    return 0;
}

static void begin_shadow(void) {
    char place[PATH_MAX + 10], key[100];
    snprintf(place, sizeof place, "%s/root", shadow);
    if (access(place, F_OK) == 0) return; /* another process of this home has begun it */
    const char *parts[] = {"", "/inodes", "/dirs"};
    for (int i = 0; i < 3; i++) {
        snprintf(place, sizeof place, "%s%s", shadow, parts[i]);
        mkdir(place, 0700);
    }
    if (nftw(root, capture_at_first, 32, FTW_PHYS)) abort();
    int top = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || !key_of(top, key)) abort();
    close(top);
    put("", "root", key, -1);
}

/* `where_counts`: a file of three longs that is shared with who watches. */
void fault_arm(int what, long after, const char *folder, const char *where_shadow, const char *where_counts) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(shadow, sizeof shadow, "%s", where_shadow);
    root_length = strlen(root);
    int fd = open(where_counts, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *counts)) abort();
    void *mapped = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) abort();
    close(fd);
    counts = mapped;
    kind = what;
    limit = after;
    if (kind == POWER) begin_shadow();
    armed = 1;
}

/* The calls themselves */

ssize_t write(int fd, const void *data, size_t size) {
    if (!fd_below(fd)) return REAL(write)(fd, data, size);
    ssize_t allowed = room(size);
    if (allowed < 0) return -1;
    ssize_t done = REAL(write)(fd, data, (size_t)allowed);
    after_write(size, allowed);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (!fd_below(fd)) return REAL(pwrite64)(fd, data, size, at);
    ssize_t allowed = room(size);
    if (allowed < 0) return -1;
    ssize_t done = REAL(pwrite64)(fd, data, (size_t)allowed, at);
    after_write(size, allowed);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

/* Of several pieces, the first: who writes must go on from a short count anyway. */
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    if (!fd_below(fd) || count < 1) return REAL(writev)(fd, pieces, count);
    return write(fd, pieces[0].iov_base, pieces[0].iov_len);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) {
    if (!fd_below(fd) || count < 1) return REAL(pwritev64)(fd, pieces, count, at);
    return pwrite64(fd, pieces[0].iov_base, pieces[0].iov_len, at);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) { return pwritev64(fd, pieces, count, at); }

ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned int flags) {
    if (!fd_below(to)) return REAL(copy_file_range)(from, at, to, to_at, size, flags);
    errno = EXDEV; /* as between file systems: the caller falls back to calls that are counted */
    return -1;
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
    if (!fd_below(to)) return REAL(sendfile64)(to, from, at, size);
    errno = EINVAL; /* the same */
    return -1;
}

ssize_t sendfile(int to, int from, off_t *at, size_t size) { return sendfile64(to, from, at, size); }

#define SYNC(name)                                                                                                     \
    int name(int fd) {                                                                                                 \
        if (!fd_below(fd)) return REAL(name)(fd);                                                                      \
        if (fails()) return -1;                                                                                        \
        if (kind != POWER) return REAL(name)(fd);                                                                      \
        capture(fd);                                                                                                   \
        return 0;                                                                                                      \
    }

SYNC(fsync)
SYNC(fdatasync)

int ftruncate64(int fd, off64_t size) {
    return fd_below(fd) && fails() ? -1 : REAL(ftruncate64)(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int rename(const char *from, const char *to) {
    return name_below(AT_FDCWD, to) && fails() ? -1 : REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    return name_below(b, to) && fails() ? -1 : REAL(renameat)(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    return name_below(b, to) && fails() ? -1 : REAL(renameat2)(a, from, b, to, flags);
}

int link(const char *from, const char *to) { return name_below(AT_FDCWD, to) && fails() ? -1 : REAL(link)(from, to); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
    return name_below(b, to) && fails() ? -1 : REAL(linkat)(a, from, b, to, flags);
}

int unlink(const char *name) { return name_below(AT_FDCWD, name) && fails() ? -1 : REAL(unlink)(name); }

int unlinkat(int folder, const char *name, int flags) {
    return name_below(folder, name) && fails() ? -1 : REAL(unlinkat)(folder, name, flags);
}

int rmdir(const char *name) { return name_below(AT_FDCWD, name) && fails() ? -1 : REAL(rmdir)(name); }

int mkdir(const char *name, mode_t mode) {
    return name_below(AT_FDCWD, name) && fails() ? -1 : REAL(mkdir)(name, mode);
}

int mkdirat(int folder, const char *name, mode_t mode) {
    return name_below(folder, name) && fails() ? -1 : REAL(mkdirat)(folder, name, mode);
}
