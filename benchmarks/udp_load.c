/* The UDP load generator: native, so that it is never the bottleneck. Linux only (sendmmsg, IP_PKTINFO, 127.0.0.0/8).
 *
 *     udp_load PORT CLIENTS WINDOW SECONDS ROAM
 *
 * One socket plays all clients: each datagram names its own source address within 127.64.0.0/10. WINDOW datagrams are
 * under way at any time; every answer sends the next one, from the next client in turn. With ROAM 1 the clients never
 * come back: every datagram is from a new one. Once every client (with ROAM: WINDOW * 64 of them) has been answered it
 * prints "warm", goes on for SECONDS and prints how many answers came, how many datagrams were lost, and after how
 * many microseconds half and 99 % of the answers had come.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, PAYLOAD = 64, SAMPLES = 1 << 22, LOST_AFTER_MS = 200 };

typedef struct {
    struct mmsghdr headers[BATCH];
    struct iovec parts[BATCH];
    char data[BATCH][PAYLOAD];
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))]; } control[BATCH];
} Batch;

static Batch outgoing, incoming;
static uint32_t samples[SAMPLES];

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: udp_load PORT CLIENTS WINDOW SECONDS ROAM\n");
        return 2;
    }
    uint32_t clients = strtoul(argv[2], NULL, 10), window = strtoul(argv[3], NULL, 10);
    double seconds = atof(argv[4]);
    int roam = atoi(argv[5]);
    uint64_t warm_after = roam ? 64ULL * window : clients;

    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20;
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sock < 0 || bind(sock, (struct sockaddr *)&any, sizeof any) < 0) fail("socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    for (int i = 0; i < BATCH; i++) {
        struct msghdr *header = &outgoing.headers[i].msg_hdr;
        outgoing.parts[i] = (struct iovec){outgoing.data[i], PAYLOAD};
        *header = (struct msghdr){&server, sizeof server, &outgoing.parts[i], 1, outgoing.control[i].bytes,
                                  sizeof outgoing.control[i].bytes, 0};
        struct cmsghdr *control = CMSG_FIRSTHDR(header);
        control->cmsg_level = IPPROTO_IP;
        control->cmsg_type = IP_PKTINFO;
        control->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
        incoming.parts[i] = (struct iovec){incoming.data[i], PAYLOAD};
        incoming.headers[i].msg_hdr.msg_iov = &incoming.parts[i];
        incoming.headers[i].msg_hdr.msg_iovlen = 1;
    }

    uint64_t sent = 0, answered = 0, counted = 0, lost = 0;
    uint32_t under_way = 0, next = 0;
    int64_t ends = 0;
    for (;;) {
        while (under_way < window) {
            uint32_t count = window - under_way < BATCH ? window - under_way : BATCH;
            int64_t now = now_ns();
            for (uint32_t i = 0; i < count; i++) {
                struct in_pktinfo from = {.ipi_spec_dst.s_addr = htonl(0x7f400001 + next)};
                next = (next + 1) % (roam ? 4000000 : clients);
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&outgoing.headers[i].msg_hdr)), &from, sizeof from);
                memcpy(outgoing.data[i], &now, sizeof now);
            }
            int done = sendmmsg(sock, outgoing.headers, count, 0);
            if (done <= 0) break;
            /* What was not taken was not sent: those clients have their turn again. */
            next = (next + (roam ? 4000000 : clients) * 2 - (count - done)) % (roam ? 4000000 : clients);
            sent += done;
            under_way += done;
        }
        struct pollfd ready = {sock, POLLIN, 0};
        if (poll(&ready, 1, LOST_AFTER_MS) == 0) {
            lost += under_way;
            under_way = 0;
            if (!ends && lost > sent / 2 + 100000) {
                fprintf(stderr, "no answers\n");
                return 1;
            }
        }
        int64_t now = now_ns();
        int count = recvmmsg(sock, incoming.headers, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++) {
            int64_t then;
            memcpy(&then, incoming.data[i], sizeof then);
            if (ends && counted < SAMPLES) samples[counted] = (now - then) / 1000;
            if (ends) counted++;
            answered++;
            if (under_way) under_way--;
        }
        if (!ends && answered + lost >= warm_after) {
            puts("warm");
            fflush(stdout);
            lost = 0;
            ends = now + (int64_t)(seconds * 1e9);
        }
        if (ends && now >= ends) break;
    }
    uint64_t kept = counted < SAMPLES ? counted : SAMPLES;
    qsort(samples, kept, sizeof *samples, ascending);
    printf("%llu %llu %u %u\n", (unsigned long long)counted, (unsigned long long)lost,
           kept ? samples[kept / 2] : 0, kept ? samples[kept * 99 / 100] : 0);
    return 0;
}
