/* A layer between a process and the system, for LD_PRELOAD: it numbers every change that the process makes to files
   below one folder, by whichever of its threads, and at a given number kills the process or lets the call fail; or
   it records all of them, so that the disk after a power cut can be made from the record.

   A change is: a file made or emptied, write, pwrite, truncate, fsync, fdatasync, rename, link, unlink, mkdir, rmdir.
   SQLite's -shm files hold nothing that must survive; they are left out.

   Environment: CRASH_ROOT (the folder), CRASH_LOG (the record, appended to), CRASH_MODE (record, kill, half, eio,
   enospc), CRASH_AT (the number), CRASH_ONLY (a text in the command line of the processes that are meant; by default
   all), CRASH_ONCE (a file that is made when it strikes: while it is there, no process is struck). A forked process
   calls crash_arm instead. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RECORD, KILL, HALF, FAIL };
enum { CREATE = 1, WRITE, TRUNCATE, SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR };

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], once[PATH_MAX];
static size_t root_length;
static int log_file = -1, mode, failure;
static long count, at;

struct head { /* of a record; both paths and the written bytes follow it */
    int32_t kind, process;
    int64_t number, offset, modified; /* the last in nanoseconds, of the file that was written */
    uint32_t first, second, length, struck;
};

void crash_arm(const char *folder, const char *log, const char *how, long when, const char *mark)
{
    snprintf(root, sizeof root, "%s/", folder);
    snprintf(once, sizeof once, "%s", mark);
    root_length = strlen(root);
    mode = !strcmp(how, "record") ? RECORD : !strcmp(how, "kill") ? KILL : !strcmp(how, "half") ? HALF : FAIL;
    failure = !strcmp(how, "eio") ? EIO : ENOSPC;
    count = 0;
    at = *once && !access(once, F_OK) ? -1 : when;
    int file = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_file = fcntl(file, F_DUPFD_CLOEXEC, 900); /* out of the way of those who count their files */
    syscall(SYS_close, file);
}

__attribute__((constructor)) static void start(void)
{
    const char *folder = getenv("CRASH_ROOT"), *only = getenv("CRASH_ONLY"), *log = getenv("CRASH_LOG");
    const char *how = getenv("CRASH_MODE"), *when = getenv("CRASH_AT"), *mark = getenv("CRASH_ONCE");
    if (!folder || !log || !how)
        return;
    if (only && *only) {
        char line[8192] = "";
        int file = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC, 0);
        ssize_t length = syscall(SYS_read, file, line, sizeof line - 1);
        syscall(SYS_close, file);
        for (ssize_t i = 0; i < length - 1; i++)
            if (!line[i])
                line[i] = ' ';
        if (!strstr(line, only))
            return;
    }
    crash_arm(folder, log, how, when ? atol(when) : 0, mark ? mark : "");
}

/* The full path of a name; empty where it is none of ours. */
static void full(char *path, int folder, const char *name)
{
    char base[PATH_MAX] = "";
    if (root_length == 0 || !name) {
        *path = 0;
        return;
    }
    if (*name != '/') {
        char link[64];
        ssize_t length;
        if (folder == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        length = readlink(link, base, sizeof base - 2);
        if (length < 0)
            length = 0;
        base[length] = 0;
        if (*name && length)
            base[length] = '/', base[length + 1] = 0;
    }
    if (snprintf(path, PATH_MAX, "%s%s", base, name) >= PATH_MAX)
        *path = 0;
    size_t length = strlen(path);
    int ours = !strncmp(path, root, root_length) || (length == root_length - 1 && !strncmp(path, root, length));
    if (!ours || (length > 4 && !strcmp(path + length - 4, "-shm")) || strstr(path, " (deleted)"))
        *path = 0;
}

/* Do a call that changes something of ours; its number says whether it is the one that is struck. */
static long change(int kind, const char *first, const char *second, long long offset, const void *data, size_t length,
                   long call, long a, long b, long c, long d, long e)
{
    long result = -1;
    int error = 0, old = errno;
    pthread_mutex_lock(&gate);
    if (mode == RECORD)
        flock(log_file, LOCK_EX); /* processes one after another, so that the record has their order */
    int struck = ++count == at;
    struct head head = {kind, getpid(), count, offset, 0, strlen(first), strlen(second), length, struck};
    if (struck) {
        if (*once)
            syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, once, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        if (mode == HALF && kind == WRITE)
            syscall(call, a, b, length / 2, d, e);
        if (mode == FAIL)
            error = failure;
    } else {
        result = syscall(call, a, b, c, d, e);
        error = result < 0 ? errno : 0;
        if (kind == WRITE && result >= 0)
            head.length = result;
        struct stat state;
        if (kind <= TRUNCATE && result >= 0 && !fstat(kind == CREATE ? result : a, &state))
            head.modified = state.st_mtim.tv_sec * 1000000000LL + state.st_mtim.tv_nsec;
    }
    if (struck || result >= 0) {
        if (mode != RECORD)
            head.length = 0;
        struct iovec parts[] = {
            {&head, sizeof head}, {(void *)first, head.first}, {(void *)second, head.second}, {(void *)data, head.length}};
        syscall(SYS_writev, log_file, parts, data ? 4 : 3);
    }
    if (struck && mode != FAIL) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;)
            pause();
    }
    if (mode == RECORD)
        flock(log_file, LOCK_UN);
    pthread_mutex_unlock(&gate);
    errno = result < 0 ? error : old;
    return result;
}

static int opened(int folder, const char *name, int flags, mode_t rights)
{
    char path[PATH_MAX];
    int there;
    if (!(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE)
        return syscall(SYS_openat, folder, name, flags, rights);
    full(path, folder, name);
    there = !faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW);
    if (!*path || (there && !(flags & O_TRUNC)))
        return syscall(SYS_openat, folder, name, flags, rights);
    return change(CREATE, path, "", 0, NULL, 0, SYS_openat, folder, (long)name, flags, rights, 0);
}

#define RIGHTS(flags, rights) \
    mode_t rights = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        rights = va_arg(list, int); \
        va_end(list); \
    }

int open(const char *name, int flags, ...)
{
    RIGHTS(flags, rights)
    return opened(AT_FDCWD, name, flags, rights);
}
int open64(const char *name, int flags, ...)
{
    RIGHTS(flags, rights)
    return opened(AT_FDCWD, name, flags, rights);
}
int openat(int folder, const char *name, int flags, ...)
{
    RIGHTS(flags, rights)
    return opened(folder, name, flags, rights);
}
int openat64(int folder, const char *name, int flags, ...)
{
    RIGHTS(flags, rights)
    return opened(folder, name, flags, rights);
}
int creat(const char *name, mode_t rights) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, rights); }
int creat64(const char *name, mode_t rights) { return creat(name, rights); }

ssize_t write(int file, const void *data, size_t length)
{
    char path[PATH_MAX];
    full(path, file, "");
    if (!*path)
        return syscall(SYS_write, file, data, length);
    struct stat state;
    int end = (fcntl(file, F_GETFL) & O_APPEND) && !fstat(file, &state);
    long long offset = end ? state.st_size : lseek(file, 0, SEEK_CUR);
    return change(WRITE, path, "", offset, data, length, SYS_write, file, (long)data, length, 0, 0);
}
ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset)
{
    char path[PATH_MAX];
    full(path, file, "");
    if (!*path)
        return syscall(SYS_pwrite64, file, data, length, offset);
    return change(WRITE, path, "", offset, data, length, SYS_pwrite64, file, (long)data, length, offset, 0);
}
ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return pwrite64(file, data, length, offset); }

static int by_file(int kind, int file, long long length, long call)
{
    char path[PATH_MAX];
    full(path, file, "");
    return *path ? change(kind, path, "", length, NULL, 0, call, file, length, 0, 0, 0) : syscall(call, file, length);
}
int ftruncate64(int file, off64_t length) { return by_file(TRUNCATE, file, length, SYS_ftruncate); }
int ftruncate(int file, off_t length) { return by_file(TRUNCATE, file, length, SYS_ftruncate); }
int fsync(int file) { return by_file(SYNC, file, 0, SYS_fsync); }
int fdatasync(int file) { return by_file(SYNC, file, 0, SYS_fdatasync); }

static int two(int kind, int from, const char *name, int to, const char *other, unsigned flags, long call)
{
    char first[PATH_MAX], second[PATH_MAX];
    full(first, from, name);
    full(second, to, other);
    if (!*first && !*second)
        return syscall(call, from, name, to, other, flags);
    return change(kind, first, second, 0, NULL, 0, call, from, (long)name, to, (long)other, flags);
}
int rename(const char *name, const char *other)
{
    return two(RENAME, AT_FDCWD, name, AT_FDCWD, other, 0, SYS_renameat2);
}
int renameat(int from, const char *name, int to, const char *other)
{
    return two(RENAME, from, name, to, other, 0, SYS_renameat2);
}
int renameat2(int from, const char *name, int to, const char *other, unsigned flags)
{
    return two(RENAME, from, name, to, other, flags, SYS_renameat2);
}
int link(const char *name, const char *other) { return two(LINK, AT_FDCWD, name, AT_FDCWD, other, 0, SYS_linkat); }
int linkat(int from, const char *name, int to, const char *other, int flags)
{
    return two(LINK, from, name, to, other, flags, SYS_linkat);
}

static int by_name(int kind, int folder, const char *name, long rights, long call)
{
    char path[PATH_MAX];
    full(path, folder, name);
    if (!*path)
        return syscall(call, folder, name, rights);
    return change(kind, path, "", 0, NULL, 0, call, folder, (long)name, rights, 0, 0);
}
int unlinkat(int folder, const char *name, int flags)
{
    return by_name(flags & AT_REMOVEDIR ? RMDIR : UNLINK, folder, name, flags, SYS_unlinkat);
}
int unlink(const char *name) { return by_name(UNLINK, AT_FDCWD, name, 0, SYS_unlinkat); }
int rmdir(const char *name) { return by_name(RMDIR, AT_FDCWD, name, AT_REMOVEDIR, SYS_unlinkat); }
int mkdir(const char *name, mode_t rights) { return by_name(MKDIR, AT_FDCWD, name, rights, SYS_mkdirat); }
int mkdirat(int folder, const char *name, mode_t rights) { return by_name(MKDIR, folder, name, rights, SYS_mkdirat); }
