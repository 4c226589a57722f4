/* A program that opens /dev/ibmvmc of a lab through its device socket: cc -o device_client device_client.c */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum { HELLO = 1, IOCTL = 2, READ = 3, WRITE = 4, SETHMCID = 0x4008CC00 };

static void all(int fd, void *data, size_t size, int sending) {
    for (ssize_t done; size > 0; data = (char *)data + done, size -= (size_t)done) {
        done = sending ? send(fd, data, size, MSG_NOSIGNAL) : recv(fd, data, size, 0);
        if (done <= 0) {
            fprintf(stderr, "the lab has closed the connection\n");
            exit(1);
        }
    }
}

/* Make a call and wait for its end: >= 0, or minus an errno of the driver; what comes back replaces `data`. */
static int call(int fd, int operation, uint32_t argument, void *data, size_t size, size_t room) {
    static uint32_t tag;
    uint32_t header[4] = {htonl((uint32_t)size), htonl(++tag), htonl((uint32_t)operation << 16), htonl(argument)};
    all(fd, header, sizeof header, 1);
    all(fd, data, size, 1);
    all(fd, header, sizeof header, 0);
    size = ntohl(header[0]);
    if (size > room) {
        fprintf(stderr, "an answer of %zu bytes\n", size);
        exit(1);
    }
    all(fd, data, size, 0);
    return (int32_t)ntohl(header[3]);
}

int main(int count, char **words) {
    static const struct timespec moment = {0, 10000000};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char hello[64] = "PVDV\0\1\0\0/dev/ibmvmc", id[32] = "device_client", message[4096] = "hello, hypervisor";
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), result;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", count == 2 ? words[1] : "vmc.sock");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) || (result = call(fd, HELLO, 0, hello, 19, 64)) < 0) {
        fprintf(stderr, "%s is no device socket of a lab\n", address.sun_path);
        return 1;
    }
    while ((result = call(fd, IOCTL, SETHMCID, id, 32, 32)) == -EAGAIN || result == -EBUSY || result == -ENOBUFS) {
        nanosleep(&moment, NULL); /* not yet: all connections are taken, or the link is coming up */
    }
    while (result == 0 && (result = call(fd, WRITE, 0, message, strlen(message), 0)) == -EBUSY) {
        nanosleep(&moment, NULL), result = 0; /* the hypervisor has not agreed yet, or no buffer is free */
    }
    result = result > 0 ? call(fd, READ, 4096, message, 0, 4096) : result; /* waits */
    printf("%d %.*s\n", result, result > 0 ? result : 0, message);
    return result < 0;
}
