/* /dev/ibmvmc for programs that open the device node by its name, where there is none.
 *
 *     PVNET_IBMVMC=unix:PATH LD_PRELOAD=.../libpvnet-ibmvmc.so program
 *
 * open() of /dev/ibmvmc connects to the device socket of a lab instead, and read, write and ioctl of that descriptor are
 * calls of the protocol that docs/device-protocol.md describes.  The descriptor IS the socket, so poll, select and epoll
 * work as they are: it becomes readable when the server says READABLE.  A read is therefore a READ that does not wait,
 * under a lock, and if there is nothing the wait is for the socket, without the lock: whoever waits to read keeps nobody
 * from writing.
 *
 * One call is under way per open file, in all processes that have it: the lock lies in memory that fork() shares, and
 * frames are taken from the socket whole, so that a process which is killed in a call leaves nothing half read.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEVICE "/dev/ibmvmc"
#define MAX_FDS 65536
#define MAX_DATA 65536
#define HEADER 16
#define CALL_TIMEOUT_MS 60000

enum { HELLO = 1, IOCTL, READ, WRITE, POLL, INTERRUPT, ARM, CLOSE, READABLE };
enum { NONBLOCK = 1 };
enum { EVENTS = 1, BIG_ENDIAN_STRUCTS = 2 };

/* SETHMCID has 32 bytes at its argument, whatever its number says; generic, powerpc64 and powerpc numbers. */
#define SETHMCID_BYTES 32
#define SETHMCID 0x4008CC00u
#define SETHMCID_PPC64 0x8008CC00u
#define SETHMCID_PPC32 0x8004CC00u

/* Shared by all processes that have the file from a fork. */
struct shared {
    pthread_mutex_t lock;
    uint32_t tag;
    unsigned char out[HEADER + MAX_DATA];
    unsigned char in[HEADER + MAX_DATA];
};

/* An open file in this process; freed with its last descriptor, when no thread is in a call. */
struct file {
    struct shared *shared;
    dev_t device;
    ino_t inode;
    int users;
};

static _Atomic(struct file *) files[MAX_FDS];
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...)                                                                                       \
    static result (*real_##name)(__VA_ARGS__);                                                                        \
    static result (*get_##name(void))(__VA_ARGS__) {                                                                  \
        if (!real_##name) {                                                                                           \
            *(void **)&real_##name = dlsym(RTLD_NEXT, #name);                                                         \
        }                                                                                                             \
        return real_##name;                                                                                           \
    }
REAL(int, open, const char *, int, ...)
REAL(int, open64, const char *, int, ...)
REAL(int, openat, int, const char *, int, ...)
REAL(int, openat64, int, const char *, int, ...)
REAL(int, ioctl, int, unsigned long, ...)
REAL(int, fcntl, int, int, ...)
REAL(int, fcntl64, int, int, ...)
REAL(ssize_t, read, int, void *, size_t)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, readv, int, const struct iovec *, int)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(int, close, int)
REAL(int, dup, int)
REAL(int, dup2, int, int)
REAL(int, dup3, int, int, int)

/* --- which descriptors are ours ------------------------------------------------------------------------------------ */

static void hold_signals(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, before);
}

static void enter(sigset_t *before) { /* a handler that reads must not find the lock with its own thread */
    hold_signals(before);
    pthread_mutex_lock(&table);
}

static void leave(const sigset_t *before) {
    pthread_mutex_unlock(&table);
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static void before_fork(void) { pthread_mutex_lock(&table); }
static void after_fork(void) { pthread_mutex_unlock(&table); }

static void release(struct file *file) { /* in the table's lock */
    if (--file->users == 0) {
        munmap(file->shared, sizeof *file->shared);
        free(file);
    }
}

static int same_socket(int fd, const struct file *file) {
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_dev == file->device && status.st_ino == file->inode;
}

/* The file behind a descriptor, to be given back with put(), or NULL: the call is not for us. */
static struct file *get(int fd) {
    struct file *file;
    sigset_t before;
    int saved = errno;
    if (fd < 0 || fd >= MAX_FDS || !atomic_load_explicit(&files[fd], memory_order_acquire)) {
        return NULL;
    }
    enter(&before);
    file = files[fd];
    if (file && !same_socket(fd, file)) { /* closed by a way that does not lead through here, and used again */
        files[fd] = NULL;
        release(file);
        file = NULL;
    }
    if (file) {
        file->users++;
    }
    leave(&before);
    errno = saved;
    return file;
}

static void put(struct file *file) {
    sigset_t before;
    int saved = errno;
    enter(&before);
    release(file);
    leave(&before);
    errno = saved;
}

/* `fd` is now `file`, or (NULL) something that does not concern us. */
static void assign(int fd, struct file *file) {
    struct file *old;
    sigset_t before;
    if (fd < 0 || fd >= MAX_FDS || (!file && !atomic_load_explicit(&files[fd], memory_order_acquire))) {
        return;
    }
    enter(&before);
    old = files[fd];
    if (file) {
        file->users++;
    }
    files[fd] = file;
    if (old) {
        release(old);
    }
    leave(&before);
}

static struct file *make_file(int fd) {
    struct file *file = calloc(1, sizeof *file);
    pthread_mutexattr_t kind;
    struct timespec now;
    struct stat status;
    if (!file || fstat(fd, &status)) {
        free(file);
        return NULL;
    }
    file->shared = mmap(NULL, sizeof *file->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (file->shared == MAP_FAILED) {
        free(file);
        return NULL;
    }
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&file->shared->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    clock_gettime(CLOCK_MONOTONIC, &now); /* after exec: not the tags of whoever had it before */
    file->shared->tag = (uint32_t)now.tv_nsec ^ ((uint32_t)getpid() << 8);
    file->device = status.st_dev;
    file->inode = status.st_ino;
    return file;
}

/* --- the caller's memory ------------------------------------------------------------------------------------------- */

/* Copies with EFAULT instead of SIGSEGV; where the kernel does not offer that, plainly. */
static int copy(int to_caller, void *caller, void *ours, size_t size) {
    struct iovec local = {ours, size}, remote = {caller, size};
    ssize_t done;
    if (size == 0) {
        return 0;
    }
    done = to_caller ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                     : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (done < 0 && (errno == ENOSYS || errno == EPERM)) {
        memcpy(to_caller ? caller : ours, to_caller ? ours : caller, size);
        return 0;
    }
    return done == (ssize_t)size ? 0 : -EFAULT;
}

/* --- frames -------------------------------------------------------------------------------------------------------- */

static void put32(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 24), at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8), at[3] = (unsigned char)value;
}

static uint32_t get32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put_header(unsigned char *at, size_t length, uint32_t tag, int op, int flags, uint32_t argument) {
    put32(at, (uint32_t)length);
    put32(at + 4, tag);
    put32(at + 8, (uint32_t)op << 16 | (uint32_t)flags);
    put32(at + 12, argument);
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int wait_for(int fd, short events, int64_t until) {
    struct pollfd one = {fd, events, 0};
    int64_t left = until - milliseconds();
    if (left <= 0) {
        return -EIO;
    }
    return poll(&one, 1, (int)left) < 0 && errno != EINTR ? -errno : 0;
}

static int send_all(int fd, const unsigned char *data, size_t size, int64_t until) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            data += sent, size -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            int problem = wait_for(fd, POLLOUT, until);
            if (problem) {
                return problem;
            }
        } else if (errno != EINTR) {
            return -ENODEV;
        }
    }
    return 0;
}

/* Take one frame, whole or not at all; returns the length of its data. */
static long receive(int fd, unsigned char *in, int64_t until) {
    size_t wanted = HEADER;
    for (;;) {
        ssize_t here = recv(fd, in, wanted, MSG_PEEK | MSG_DONTWAIT);
        if (here == 0 || (here < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            return -ENODEV;
        }
        if (here < (ssize_t)wanted) {
            struct timespec moment = {0, 200000};
            int problem = here > 0 ? 0 : wait_for(fd, POLLIN, until);
            if (problem || milliseconds() >= until) {
                return problem ? problem : -EIO;
            }
            if (here > 0) {
                nanosleep(&moment, NULL); /* poll() would say "readable" for the part that is there */
            }
        } else if (wanted == HEADER && get32(in) > 0) {
            if (get32(in) > MAX_DATA) {
                return -ENODEV;
            }
            wanted += get32(in);
        } else {
            return recv(fd, in, wanted, MSG_DONTWAIT) == (ssize_t)wanted ? (long)(wanted - HEADER) : -ENODEV;
        }
    }
}

/* One call: `size` bytes of data lie in shared->out behind the header; the answer's data lie in shared->in behind its
 * header, `*length` of them.  Returns the result.  In the lock, with signals held. */
static long exchange(int fd, struct shared *shared, int op, int flags, uint32_t argument, size_t size, size_t *length) {
    int64_t until = milliseconds() + CALL_TIMEOUT_MS;
    int was_readable = 0;
    long result;
    if (++shared->tag == 0) {
        shared->tag = 1;
    }
    put_header(shared->out, size, shared->tag, op, flags, argument);
    result = send_all(fd, shared->out, HEADER + size, until);
    while (result == 0) {
        long got = receive(fd, shared->in, until);
        if (got < 0) {
            return got;
        }
        if (get32(shared->in + 4) == 0) {
            was_readable = 1;
        } else if (get32(shared->in + 4) == shared->tag) { /* others: of a process that was killed in its call */
            *length = (size_t)got;
            result = (int32_t)get32(shared->in + 12);
            break;
        }
    }
    /* A READABLE that was taken away from those who poll comes again: by READ, or because we ask.  That the session has
     * ended concerns everybody who waits to read. */
    if ((was_readable && op != READ) || (op == READ && result == -EBADFD)) {
        unsigned char arm[HEADER];
        put_header(arm, 0, 0, ARM, 0, 0);
        (void)send_all(fd, arm, HEADER, until);
    }
    return result;
}

static void lock(struct shared *shared, sigset_t *before) {
    hold_signals(before);
    if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD) {
        pthread_mutex_consistent(&shared->lock);
    }
}

static void unlock(struct shared *shared, const sigset_t *before) {
    pthread_mutex_unlock(&shared->lock);
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

static long finish(struct file *file, long result) {
    put(file);
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* --- the calls ----------------------------------------------------------------------------------------------------- */

static int connected(const char *address, int flags) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd;
    if (strncmp(address, "unix:", 5) != 0 || strlen(address + 5) >= sizeof to.sun_path) {
        fprintf(stderr, "PVNET_IBMVMC=%.80s: expected unix:PATH\n", address);
        errno = ENXIO;
        return -1;
    }
    strcpy(to.sun_path, address + 5);
    fd = socket(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to)) {
        get_close()(fd);
        errno = ENXIO; /* as of a device node without a driver */
        return -1;
    }
    return fd;
}

static int open_device(int flags) {
    const char *address = getenv("PVNET_IBMVMC");
    const uint32_t one = 1;
    int options = EVENTS | (*(const unsigned char *)&one ? 0 : BIG_ENDIAN_STRUCTS);
    int fd = connected(address, flags);
    struct file *file;
    size_t length;
    sigset_t before;
    long result;
    if (fd < 0) {
        return -1;
    }
    file = fd < MAX_FDS ? make_file(fd) : NULL;
    if (!file) {
        get_close()(fd);
        errno = ENOMEM;
        return -1;
    }
    lock(file->shared, &before);
    memcpy(file->shared->out + HEADER, "PVDV", 4);
    put32(file->shared->out + HEADER + 4, 1u << 16 | (uint32_t)options);
    memcpy(file->shared->out + HEADER + 8, DEVICE, strlen(DEVICE));
    result = exchange(fd, file->shared, HELLO, 0, 0, 8 + strlen(DEVICE), &length);
    unlock(file->shared, &before);
    assign(fd, file);
    if (result < 0 || (flags & O_NONBLOCK && get_fcntl()(fd, F_SETFL, O_NONBLOCK) < 0)) {
        assign(fd, NULL);
        get_close()(fd);
        errno = result < 0 ? (int)-result : EIO;
        return -1;
    }
    return fd;
}

static int is_device(const char *path) { return path && getenv("PVNET_IBMVMC") && strcmp(path, DEVICE) == 0; }

#define OPEN_MODE()                                                                                                   \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                                             \
        va_list more;                                                                                                 \
        va_start(more, flags);                                                                                        \
        mode = va_arg(more, mode_t);                                                                                  \
        va_end(more);                                                                                                 \
    }
int open(const char *path, int flags, ...) {
    OPEN_MODE()
    return is_device(path) ? open_device(flags) : get_open()(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    OPEN_MODE()
    return is_device(path) ? open_device(flags) : get_open64()(path, flags, mode);
}
int openat(int at, const char *path, int flags, ...) {
    OPEN_MODE()
    return is_device(path) ? open_device(flags) : get_openat()(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    OPEN_MODE()
    return is_device(path) ? open_device(flags) : get_openat64()(at, path, flags, mode);
}
/* What a program that was compiled with _FORTIFY_SOURCE calls. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat64(at, path, flags); }

static long read_once(int fd, struct shared *shared, void *data, size_t count) {
    size_t length = 0;
    sigset_t before;
    long result;
    lock(shared, &before);
    result = exchange(fd, shared, READ, NONBLOCK, count > INT32_MAX ? INT32_MAX : (uint32_t)count, 0, &length);
    if (result > 0) {
        result = length > count ? -EIO : copy(1, data, shared->in + HEADER, length);
        result = result ? result : (long)length;
    }
    unlock(shared, &before);
    return result;
}

ssize_t read(int fd, void *data, size_t count) {
    struct file *file = get(fd);
    long result;
    if (!file) {
        return get_read()(fd, data, count);
    }
    while ((result = read_once(fd, file->shared, data, count)) == -EAGAIN) {
        unsigned char byte;
        int flags = get_fcntl()(fd, F_GETFL);
        if (flags < 0 || flags & O_NONBLOCK) {
            break;
        }
        /* Wait as the driver does: a signal ends it, or it goes on, as the handler was set up. */
        if (recv(fd, &byte, 1, MSG_PEEK) < 0 && errno != EAGAIN) {
            result = errno == EINTR ? -EINTR : -ENODEV;
            break;
        }
    }
    return finish(file, result);
}
ssize_t __read_chk(int fd, void *data, size_t count, size_t size);
ssize_t __read_chk(int fd, void *data, size_t count, size_t size) {
    if (count > size) {
        abort();
    }
    return read(fd, data, count);
}

ssize_t write(int fd, const void *data, size_t count) {
    struct file *file = get(fd);
    size_t length = 0;
    sigset_t before;
    long result;
    if (!file) {
        return get_write()(fd, data, count);
    }
    if (count > MAX_DATA) {
        return finish(file, -EIO); /* longer than any message */
    }
    lock(file->shared, &before);
    if (copy(0, (void *)data, file->shared->out + HEADER, count)) {
        result = exchange(fd, file->shared, WRITE, 0, 0, 0, &length); /* what comes before EFAULT in the driver */
        result = result < 0 ? result : -EFAULT;
    } else {
        result = exchange(fd, file->shared, WRITE, 0, 0, count, &length);
    }
    unlock(file->shared, &before);
    return finish(file, result);
}

/* The kernel makes one call of the driver per piece. */
ssize_t readv(int fd, const struct iovec *pieces, int count) {
    struct file *file = get(fd);
    ssize_t total = 0;
    if (!file) {
        return get_readv()(fd, pieces, count);
    }
    put(file);
    for (int i = 0; i < count; i++) {
        ssize_t one = read(fd, pieces[i].iov_base, pieces[i].iov_len);
        if (one < 0) {
            return total ? total : one;
        }
        total += one;
        if ((size_t)one < pieces[i].iov_len) {
            break;
        }
    }
    return total;
}
ssize_t writev(int fd, const struct iovec *pieces, int count) {
    struct file *file = get(fd);
    ssize_t total = 0;
    if (!file) {
        return get_writev()(fd, pieces, count);
    }
    put(file);
    for (int i = 0; i < count; i++) {
        ssize_t one = write(fd, pieces[i].iov_base, pieces[i].iov_len);
        if (one < 0) {
            return total ? total : one;
        }
        total += one;
    }
    return total;
}

int ioctl(int fd, unsigned long request, ...) {
    struct file *file = get(fd);
    uint32_t command = (uint32_t)request;
    size_t size = 0, length = 0;
    sigset_t before;
    va_list more;
    void *argument;
    long result;
    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    if (!file) {
        return get_ioctl()(fd, request, argument);
    }
    if (request == FIONBIO || request == FIOCLEX || request == FIONCLEX) { /* not the driver's: any descriptor's */
        put(file);
        return get_ioctl()(fd, request, argument);
    }
    lock(file->shared, &before);
    if (command == SETHMCID || command == SETHMCID_PPC64 || command == SETHMCID_PPC32) {
        size = copy(0, argument, file->shared->out + HEADER, SETHMCID_BYTES) ? 0 : SETHMCID_BYTES; /* 0: EFAULT */
    }
    result = exchange(fd, file->shared, IOCTL, 0, command, size, &length);
    if (result >= 0 && length > 0 && copy(1, argument, file->shared->in + HEADER, length)) {
        result = -EFAULT;
    }
    unlock(file->shared, &before);
    return (int)finish(file, result);
}

int close(int fd) { /* the server closes the file when the last descriptor of the socket is gone, in any process */
    assign(fd, NULL);
    return get_close()(fd);
}

/* `made` is another descriptor of what `fd` is; it may have been one of ours before. */
static int duplicated(int fd, int made) {
    struct file *file = made < 0 || made == fd ? NULL : get(fd);
    int saved = errno;
    if (made >= 0 && made != fd) {
        assign(made, file);
    }
    if (file) {
        put(file);
    }
    errno = saved;
    return made;
}
int dup(int fd) { return duplicated(fd, get_dup()(fd)); }
int dup2(int fd, int wanted) { return duplicated(fd, get_dup2()(fd, wanted)); }
int dup3(int fd, int wanted, int flags) { return duplicated(fd, get_dup3()(fd, wanted, flags)); }

#define FCNTL(name)                                                                                                   \
    int name(int fd, int command, ...) {                                                                              \
        va_list more;                                                                                                 \
        void *argument;                                                                                               \
        int result;                                                                                                   \
        va_start(more, command);                                                                                      \
        argument = va_arg(more, void *);                                                                              \
        va_end(more);                                                                                                 \
        result = get_##name()(fd, command, argument);                                                                 \
        return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;                    \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* --- start --------------------------------------------------------------------------------------------------------- */

/* Descriptors that were open before exec: a shell's redirection. */
static void adopt(const char *path) {
    struct stat ours, theirs;
    if (stat(path, &ours)) {
        return;
    }
    for (int fd = 0; fd < 256; fd++) {
        struct sockaddr_un peer = {.sun_family = AF_UNSPEC};
        socklen_t size = sizeof peer - 1;
        struct file *file;
        if (getpeername(fd, (struct sockaddr *)&peer, &size) || peer.sun_family != AF_UNIX || !peer.sun_path[0] ||
            stat(peer.sun_path, &theirs) || theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino) {
            continue;
        }
        file = make_file(fd);
        if (file) {
            assign(fd, file);
        }
    }
}

__attribute__((constructor)) static void start(void) {
    const char *address = getenv("PVNET_IBMVMC");
    int saved = errno;
    pthread_atfork(before_fork, after_fork, after_fork);
    if (address && strncmp(address, "unix:", 5) == 0) {
        adopt(address + 5);
    }
    errno = saved;
}
