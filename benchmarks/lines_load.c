/* The load generator for lines: native, so that it is never the bottleneck. Linux only (epoll).
 *
 *     lines_load PORT CONNECTIONS SIZE SECONDS
 *
 * Each connection sends a line of SIZE bytes, its end included, waits until the same bytes come back, and sends the next
 * one, which differs from it. Once every connection has had WARM answers it prints "warm", goes on for SECONDS and prints
 * how many answers came, and after how many microseconds half and 99 % of them had come. Whatever is not the expected
 * answer ends it with status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WARM = 50, LONGEST = 16384, SAMPLES = 1 << 22, PATIENCE_MS = 10000 };

typedef struct {
    int sock;
    uint64_t answers;
    int64_t sent_at;
    size_t filled;
    uint8_t line[LONGEST], buffer[LONGEST + 1];
} Connection;

static uint32_t samples[SAMPLES];
static size_t size;

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void fail_errno(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void send_line(Connection *one) {
    uint64_t number = one->answers * 0x9e3779b97f4a7c15ull + (uintptr_t)one->sock;
    for (size_t i = 0; i + 1 < size; i++) one->line[i] = 'a' + (number >> (i % 8 * 8)) % 26;
    one->line[size - 1] = '\n';
    one->sent_at = now_ns();
    for (size_t at = 0; at < size;) {
        ssize_t done = send(one->sock, one->line + at, size - at, MSG_NOSIGNAL);
        if (done < 0 && errno != EINTR) fail_errno("send");
        if (done > 0) at += done;
    }
}

static void open_connection(Connection *one, int port) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    one->sock = socket(AF_INET, SOCK_STREAM, 0);
    if (one->sock < 0 || connect(one->sock, (struct sockaddr *)&server, sizeof server) < 0) fail_errno("connect");
    setsockopt(one->sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: lines_load PORT CONNECTIONS SIZE SECONDS\n");
        return 2;
    }
    uint32_t count = strtoul(argv[2], NULL, 10), cold = count;
    size = strtoul(argv[3], NULL, 10);
    if (!count || !size || size > LONGEST) fail("at least one connection, and from 1 to 16384 bytes");
    double seconds = atof(argv[4]);
    Connection *connections = calloc(count, sizeof *connections);
    int poll = epoll_create1(0);
    if (!connections || poll < 0) fail_errno("epoll");
    for (uint32_t i = 0; i < count; i++) {
        Connection *one = &connections[i];
        open_connection(one, atoi(argv[1]));
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = one};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, one->sock, &wanted) < 0) fail_errno("epoll_ctl");
    }
    for (uint32_t i = 0; i < count; i++) send_line(&connections[i]);
    uint64_t counted = 0;
    int64_t ends = 0, now = 0;
    while (!ends || now < ends) {
        struct epoll_event ready[64];
        int found = epoll_wait(poll, ready, 64, PATIENCE_MS);
        if (found == 0) fail("no answers");
        for (int i = 0; i < found; i++) {
            Connection *one = ready[i].data.ptr;
            ssize_t length = recv(one->sock, one->buffer + one->filled, size + 1 - one->filled, MSG_DONTWAIT);
            if (length < 0 && errno == EAGAIN) continue;
            if (length <= 0) fail("a connection was lost");
            one->filled += length;
            if (one->filled < size) continue;
            if (one->filled > size || memcmp(one->buffer, one->line, size)) fail("an answer is not what was sent");
            one->filled = 0;
            now = now_ns();
            if (ends) {
                if (counted < SAMPLES) samples[counted] = (now - one->sent_at) / 1000;
                counted++;
            }
            if (++one->answers == WARM && --cold == 0) {
                puts("warm");
                fflush(stdout);
                ends = now + (int64_t)(seconds * 1e9);
            }
            send_line(one);
        }
        now = now_ns();
    }
    uint64_t kept = counted < SAMPLES ? counted : SAMPLES;
    qsort(samples, kept, sizeof *samples, ascending);
    printf("%llu %u %u\n", (unsigned long long)counted, kept ? samples[kept / 2] : 0,
           kept ? samples[kept * 99 / 100] : 0);
    return 0;
}
