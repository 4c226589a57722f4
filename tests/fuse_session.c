#define _GNU_SOURCE
/* A session over the device node, by the public numbers of the driver: magic 0xCC, commands 0, 1 and 2.
 * usage: fuse_session FILE; prints one line for each step, ends with 0 when all went as it should. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SETHMCID _IOW(0xCC, 0, unsigned char *)
#define QUERY _IOR(0xCC, 1, struct query)
#define REQUESTVMC _IOR(0xCC, 2, uint32_t)
#define HEADER 32
#define OPEN 0x0001
#define CLOSE 0x0002
#define ECHO 0x0103

struct query {
    int32_t have_vmc, state, drc_index;
};

static int fd;
static unsigned char large[65536];

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "line %d: %s: result wrong, errno %d\n", __LINE__, #condition, errno);           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static void doze(void) {
    struct timespec time = {0, 10000000};
    nanosleep(&time, NULL);
}

static void put32(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 24), at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8), at[3] = (unsigned char)value;
}

/* Make a router message: header of 32 bytes, big-endian, then the data. */
static size_t message(unsigned char *to, int opcode, uint32_t number, const unsigned char *data, size_t size) {
    memset(to, 0, HEADER);
    memcpy(to, "\xde\xca\xff\x20", 4);
    put32(to + 4, (uint32_t)(HEADER + size));
    put32(to + 8, number);
    to[0x0C] = 0x80;
    to[0x0F] = 0x80;
    put32(to + 0x10, (uint32_t)size);
    to[0x14] = (unsigned char)(opcode >> 8), to[0x15] = (unsigned char)opcode;
    memcpy(to + HEADER, data, size);
    return HEADER + size;
}

static void send_all(const unsigned char *bytes, size_t size) {
    ssize_t sent;
    while ((sent = write(fd, bytes, size)) < 0 && errno == EBUSY)
        doze();
    CHECK(sent == (ssize_t)size);
}

static void *reader(void *into) {
    ssize_t size;
    while ((size = read(fd, into, 4096)) < 0 && errno == EINTR)
        ;
    return (void *)(intptr_t)size;
}

/* Send with a thread asleep in read() on the same descriptor: neither may hold up the other. */
static size_t exchange_threads(const unsigned char *bytes, size_t size, unsigned char *answer) {
    pthread_t thread;
    void *result;
    CHECK(pthread_create(&thread, NULL, reader, answer) == 0);
    for (int i = 0; i < 10; i++)
        doze();
    send_all(bytes, size);
    CHECK(pthread_join(thread, &result) == 0);
    CHECK((intptr_t)result > 0);
    return (size_t)(intptr_t)result;
}

static size_t exchange(const unsigned char *bytes, size_t size, unsigned char *answer) {
    struct pollfd polled = {fd, POLLIN, 0};
    ssize_t got;
    send_all(bytes, size);
    CHECK(poll(&polled, 1, 30000) == 1 && polled.revents == POLLIN);
    got = read(fd, answer, 4096);
    CHECK(got >= HEADER);
    return (size_t)got;
}

int main(int argc, char **argv) {
    struct query query;
    unsigned char id[32] = "c program", bytes[4096], answer[4096], data[100];
    struct pollfd polled = {0, POLLIN, 0};
    uint32_t drc = 0;
    size_t size;
    int child, status, second;
    long page = sysconf(_SC_PAGESIZE);
    unsigned char *pages;

    CHECK(argc == 2);
    CHECK((fd = open(argv[1], O_RDWR)) >= 0);
    CHECK(ioctl(fd, QUERY, &query) == 0 && query.have_vmc == 1);
    puts("query");
    CHECK(read(fd, answer, 4096) == -1 && errno == EIO);
    CHECK(read(fd, large, sizeof large) == -1 && errno == EINVAL);
    CHECK(write(fd, id, 32) == -1 && errno == EIO);
    CHECK(ioctl(fd, _IO(0xCC, 9), 0) == -1 && errno == EINVAL);
    CHECK(lseek(fd, 0, SEEK_SET) == -1 && errno == ESPIPE);
    polled.fd = fd;
    CHECK(poll(&polled, 1, 0) == 0);
    puts("refusals");
    CHECK(ioctl(fd, REQUESTVMC, &drc) == 0 || errno == EPERM || errno == ENODEV || errno == EIO);
    CHECK(ioctl(fd, SETHMCID, (unsigned char *)8) == -1 && errno == EFAULT);
    /* 8 of the 32 bytes are there: EFAULT, but not before the driver is ready; it may be tried again */
    pages = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && munmap(pages + page, (size_t)page) == 0);
    while ((status = ioctl(fd, SETHMCID, pages + page - 8)) < 0 &&
           (errno == EAGAIN || errno == EBUSY || errno == ENOBUFS))
        doze();
    CHECK(status == -1 && errno == EFAULT);
    while ((status = ioctl(fd, SETHMCID, id)) < 0 && (errno == EAGAIN || errno == EBUSY || errno == ENOBUFS))
        doze();
    CHECK(status == 0);
    CHECK(ioctl(fd, SETHMCID, id) == -1 && errno == EIO);
    puts("session");
    size = message(bytes, OPEN, 1, (const unsigned char *)"\0\1\0\0\0\0", 6);
    size = exchange_threads(bytes, size, answer);
    CHECK(size >= HEADER && answer[0x16] == 0 && answer[0x17] == 0);
    puts("threads");
    for (size_t n = 1; n <= sizeof data; n++) {
        for (size_t i = 0; i < n; i++)
            data[i] = (unsigned char)(n + i);
        size = message(bytes, ECHO, (uint32_t)(n + 1), data, n);
        CHECK(exchange(bytes, size, answer) == HEADER + n);
        CHECK(memcmp(answer + HEADER, data, n) == 0);
    }
    puts("100 echoes");
    CHECK(fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0);
    CHECK(read(fd, answer, 4096) == -1 && errno == EAGAIN);
    CHECK(fcntl(fd, F_SETFL, O_RDWR) == 0);
    CHECK((second = dup(fd)) >= 0 && close(fd) == 0);
    fd = second;
    if ((child = fork()) == 0) { /* the session is the open file's, not the process's */
        size = message(bytes, ECHO, 500, data, 3);
        _exit(exchange(bytes, size, answer) == HEADER + 3 ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    size = message(bytes, ECHO, 501, data, 7);
    send_all(bytes, size);
    CHECK(read(fd, answer, 10) == 10 && memcmp(answer, "\xde\xca\xff", 3) == 0); /* the rest is discarded */
    puts("dup and fork");
    size = message(bytes, CLOSE, 502, data, 0);
    CHECK(exchange(bytes, size, answer) == HEADER);
    CHECK(close(fd) == 0);
    puts("closed");
    return 0;
}
