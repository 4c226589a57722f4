/* Management applications in C against the public numbers of /dev/ibmvmc: magic 0xCC, ioctls 0, 1 and 2.
 *
 *     ibmvmc_session SCENARIO        exit code 0, or 1 and a line that says what was not as it should be
 *
 * Nothing here knows of pvnet: the same program runs on a machine that has the device.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct query {
    int32_t have_vmc, state, drc_index;
};
#define SETHMCID _IOW(0xCC, 0, unsigned char *)
#define QUERY _IOR(0xCC, 1, struct query)
#define REQUESTVMC _IOR(0xCC, 2, uint32_t)

#define CHECK(what)                                                                                                   \
    do {                                                                                                              \
        if (!(what)) {                                                                                                \
            fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #what, errno, strerror(errno));         \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)
#define FAILS(call, number) CHECK((errno = 0, (call) == -1) && errno == (number))

static void nap(void) {
    struct timespec moment = {0, 2000000};
    nanosleep(&moment, NULL);
}

static int is_later(void) { return errno == EAGAIN || errno == EBUSY || errno == ENOBUFS; }

static int open_session(const char *name, int flags) {
    int fd = open("/dev/ibmvmc", O_RDWR | flags);
    unsigned char id[32] = {0};
    struct query query;
    CHECK(fd >= 0);
    while (ioctl(fd, QUERY, &query) == 0 && query.have_vmc == 0) { /* its platform restarts */
        nap();
    }
    CHECK(query.have_vmc == 1);
    snprintf((char *)id, sizeof id, "%s", name);
    while (ioctl(fd, SETHMCID, id)) {
        CHECK(is_later());
        nap();
    }
    return fd;
}

static void send_message(int fd, const void *data, size_t size) {
    while (write(fd, data, size) != (ssize_t)size) {
        CHECK(errno == EBUSY);
        nap();
    }
}

static void put16(unsigned char *at, unsigned value) { at[0] = (unsigned char)(value >> 8), at[1] = (unsigned char)value; }
static void put32(unsigned char *at, uint32_t value) { put16(at, value >> 16), put16(at + 2, value & 0xFFFF); }

/* A router message and its response; what came back lies behind the 32 bytes of the header. */
static size_t router(int fd, unsigned opcode, const void *data, size_t size, unsigned char *answer) {
    static uint32_t correlation = 0;
    unsigned char message[32 + 4064] = {0xDE, 0xCA, 0xFF, 32};
    ssize_t got;
    put32(message + 4, (uint32_t)(32 + size));
    put32(message + 8, ++correlation);
    put16(message + 12, 0x8000);
    message[15] = 0x80;
    put32(message + 16, (uint32_t)size);
    put16(message + 20, opcode);
    memcpy(message + 32, data, size);
    send_message(fd, message, 32 + size);
    got = read(fd, answer, 4096);
    CHECK(got >= 32);
    CHECK(memcmp(answer, "\xDE\xCA\xFF", 3) == 0 && memcmp(answer + 8, message + 8, 4) == 0);
    CHECK(answer[22] == 0 && answer[23] == 0);
    return (size_t)got - 32;
}

static void echo(int fd, size_t size) {
    unsigned char data[100], answer[4096];
    for (size_t i = 0; i < size; i++) {
        data[i] = (unsigned char)(size + i);
    }
    CHECK(router(fd, 0x0103, data, size, answer) == size);
    CHECK(memcmp(answer + 32, data, size) == 0);
}

static void router_open(int fd) {
    unsigned char answer[4096];
    router(fd, 1, "\0\1\0\0\0", 6, answer);
}

/* Anything that is no router message comes back as it was. */
static void say(int fd, const char *text) { send_message(fd, text, strlen(text)); }
static void hear(int fd, const char *text) {
    char got[4096];
    CHECK(read(fd, got, sizeof got) == (ssize_t)strlen(text));
    CHECK(memcmp(got, text, strlen(text)) == 0);
}

static void session(void) {
    unsigned char answer[4096];
    int fd = open_session("ibmvmc_session", 0);
    router_open(fd);
    for (size_t size = 1; size <= 100; size++) {
        echo(fd, size);
    }
    router(fd, 2, "", 0, answer);
    CHECK(close(fd) == 0);
    FAILS(read(fd, answer, 1), EBADF);
}

static void negative(void) {
    static unsigned char data[1000000];
    void *volatile nowhere = (void *)8;
    struct query query = {7, 7, 7};
    uint32_t index = 0;
    int fd = open("/dev/ibmvmc", O_RDWR | O_NONBLOCK);
    CHECK(fd >= 0);
    FAILS(write(fd, "x", 1), EIO);
    FAILS(read(fd, data, 10), EIO);
    CHECK(read(fd, data, 0) == 0);
    FAILS(read(fd, data, 100000), EINVAL);
    FAILS(ioctl(fd, _IO(0xCC, 9), 0), EINVAL);
    FAILS(ioctl(fd, QUERY, nowhere), EFAULT);
    FAILS(ioctl(fd, SETHMCID, nowhere), EFAULT);
    FAILS(read(fd, data, 10), EAGAIN);
    CHECK(isatty(fd) == 0);
    CHECK(ioctl(fd, SETHMCID, data) == 0);
    FAILS(ioctl(fd, SETHMCID, data), EIO);
    CHECK(ioctl(fd, QUERY, &query) == 0 && query.have_vmc == 1 && query.state != 7);
    CHECK(ioctl(fd, REQUESTVMC, &index) == 0 || errno == EPERM || errno == ENODEV);
    while (write(fd, "", 0)) {
        CHECK(errno == EBUSY);
        nap();
    }
    FAILS(write(fd, data, 4097), EIO);
    FAILS(write(fd, data, 1000000), EIO);
    FAILS(write(fd, nowhere, 10), EFAULT);
    FAILS(read(fd, data, 4096), EAGAIN);
    say(fd, "too long for the reader");
    while (read(fd, data, 8) != 8) {
        CHECK(errno == EAGAIN);
        nap();
    }
    CHECK(memcmp(data, "too long", 8) == 0);
    FAILS(read(fd, data, 4096), EAGAIN); /* the rest is discarded */
    CHECK(close(fd) == 0);
    FAILS(open("/dev/ibmvmc/x", O_RDWR), ENOENT);
}

/* The generic numbers and those of powerpc mean the same. */
static void numbers(void) {
    static const unsigned long query[] = {0x800CCC01, 0x400CCC01}, set[] = {0x4008CC00, 0x8008CC00, 0x8004CC00};
    unsigned char id[32] = "numbers";
    struct query got;
    for (int i = 0; i < 3; i++) {
        int fd = open("/dev/ibmvmc", O_RDWR);
        CHECK(fd >= 0);
        got.have_vmc = 0;
        CHECK(ioctl(fd, query[i % 2], &got) == 0 && got.have_vmc == 1);
        while (ioctl(fd, set[i], id)) {
            CHECK(is_later());
            nap();
        }
        say(fd, "number");
        hear(fd, "number");
        close(fd);
    }
}

/* A child has the file as well; it stays open until both have closed it. */
static void forked(void) {
    int fd = open_session("fork", 0), status, up[2];
    pid_t child;
    char byte;
    CHECK(pipe(up) == 0);
    router_open(fd);
    for (int round = 0; round < 3; round++) {
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (size_t size = 1; size <= 20; size++) {
                echo(fd, size);
            }
            CHECK(close(fd) == 0);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        echo(fd, 50);
    }
    if (fork() == 0) { /* writes while the other reads, at the same time */
        for (int i = 0; i < 50; i++) {
            say(fd, "from the child");
        }
        CHECK(write(up[1], "x", 1) == 1);
        _exit(0);
    }
    for (int i = 0; i < 50; i++) {
        hear(fd, "from the child");
    }
    CHECK(read(up[0], &byte, 1) == 1);
    CHECK(wait(&status) > 0 && status == 0);
    child = fork();
    if (child == 0) { /* killed while it waits to read: the others notice nothing */
        CHECK(write(up[1], "x", 1) == 1);
        hear(fd, "never");
        _exit(1);
    }
    CHECK(read(up[0], &byte, 1) == 1);
    nap();
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    echo(fd, 100);
    close(fd);
}

static void duplicates(void) {
    int fd = open_session("dup", 0);
    int a = dup(fd), b = dup2(fd, 100), c = dup3(fd, 101, O_CLOEXEC), d = fcntl(fd, F_DUPFD, 200);
    int e = fcntl(fd, F_DUPFD_CLOEXEC, 200), null = open("/dev/null", O_RDWR);
    CHECK(a >= 0 && b == 100 && c == 101 && d == 200 && e == 201 && null >= 0);
    CHECK(dup2(fd, fd) == fd);
    router_open(fd);
    CHECK(close(fd) == 0);
    echo(a, 1), echo(b, 2), echo(c, 3), echo(d, 4), echo(e, 5);
    CHECK(dup2(null, b) == b); /* not the device any more */
    CHECK(write(b, "into nothing", 12) == 12 && write(null, "x", 1) == 1);
    CHECK(close(a) == 0 && close(c) == 0 && close(e) == 0);
    echo(d, 6);
    CHECK(close(d) == 0);
    FAILS(write(d, "x", 1), EBADF);
}

static void *reads(void *fd) {
    for (int i = 0; i < 200; i++) {
        hear(*(int *)fd, "over and over");
    }
    return NULL;
}

/* A reader that waits does not keep another thread from writing. */
static void threads(void) {
    int fd = open_session("threads", 0);
    pthread_t reader[4];
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&reader[i], NULL, reads, &fd) == 0);
    }
    nap();
    for (int i = 0; i < 800; i++) {
        say(fd, "over and over");
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(reader[i], NULL) == 0);
    }
    close(fd);
}

static int readable(int fd, int ms) {
    struct pollfd one = {fd, POLLIN, 0};
    int ready = poll(&one, 1, ms);
    CHECK(ready >= 0 && !(one.revents & ~POLLIN));
    return ready;
}

/* poll, select and epoll say when there is something, and only then; also when writes come in between. */
static void waiting(void) {
    int fd = open_session("poll", 0), set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    struct timeval patience = {20, 0};
    fd_set fds;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    CHECK(readable(fd, 50) == 0);
    for (int round = 0; round < 20; round++) {
        say(fd, "first");
        CHECK(readable(fd, 20000) == 1);
        CHECK(epoll_wait(set, &event, 1, 0) == 1);
        say(fd, "second");
        CHECK(readable(fd, 20000) == 1);
        FD_ZERO(&fds);
        FD_SET(fd, &fds);
        CHECK(select(fd + 1, &fds, NULL, NULL, &patience) == 1);
        hear(fd, "first");
        CHECK(readable(fd, 20000) == 1);
        hear(fd, "second");
        CHECK(readable(fd, 1) == 0);
    }
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    FAILS(read(fd, &event, sizeof event), EAGAIN);
    CHECK(readable(fd, 1) == 0);
    close(fd);
}

static volatile sig_atomic_t signals;
static void on_signal(int number) {
    (void)number;
    signals++;
}

/* A signal ends a read that waits, unless its handler asks for a restart. */
static void interrupted(void) {
    struct sigaction action = {.sa_handler = on_signal};
    int fd = open_session("signals", 0);
    char data[10];
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    alarm(1);
    FAILS(read(fd, data, sizeof data), EINTR);
    CHECK(signals == 1);
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    if (fork() == 0) {
        nap();
        for (int i = 0; i < 3; i++) {
            kill(getppid(), SIGALRM);
            nap();
        }
        say(fd, "after");
        _exit(0);
    }
    hear(fd, "after");
    CHECK(signals >= 2);
    close(fd);
}

static void pieces(void) {
    int fd = open_session("pieces", 0);
    struct iovec out[2] = {{(char *)"one", 3}, {(char *)"three", 5}};
    char a[3], b[5];
    struct iovec in[2] = {{a, 3}, {b, 5}};
    say(fd, "x"), hear(fd, "x");
    CHECK(writev(fd, out, 2) == 8);
    CHECK(readv(fd, in, 2) == 8);
    CHECK(memcmp(a, "one", 3) == 0 && memcmp(b, "three", 5) == 0);
    close(fd);
}

/* Waits until the session ends under it; says "waiting" first. */
static void ends(void) {
    int fd = open_session("ends", 0);
    char data[10];
    say(fd, "ready");
    hear(fd, "ready");
    CHECK(write(1, "waiting\n", 8) == 8);
    CHECK(read(fd, data, sizeof data) == -1);
    CHECK(errno == EBADFD || errno == ENODEV);
    close(fd);
}

/* Descriptor 3 was opened by whoever started us. */
static void inherited(void) {
    unsigned char id[32] = "inherited";
    while (ioctl(3, SETHMCID, id)) {
        CHECK(is_later());
        nap();
    }
    router_open(3);
    echo(3, 77);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"session", session},     {"negative", negative},   {"numbers", numbers}, {"fork", forked}, {"dup", duplicates},
    {"threads", threads},     {"poll", waiting},        {"signals", interrupted}, {"pieces", pieces}, {"ends", ends},
    {"inherited", inherited},
};

int main(int count, char **words) {
    for (size_t i = 0; count == 2 && i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(words[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    fprintf(stderr, "usage: ibmvmc_session SCENARIO\n");
    return 2;
}
