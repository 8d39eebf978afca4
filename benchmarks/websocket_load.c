/* The WebSocket load generator: native, so that it is never the bottleneck. Linux only (epoll).
 *
 *     websocket_load PORT CONNECTIONS SIZE SECONDS
 *
 * Each connection sends a masked binary message of SIZE bytes, waits until the same bytes come back, and sends the
 * next one, which differs from it. Compiled with -DDEFLATE -lz it insists on permessage-deflate (RFC 7692), its own
 * side of which keeps its context. Once every connection has had WARM answers it prints "warm", goes on for SECONDS
 * and prints how many answers came, and after how many microseconds half and 99 % of them had come. Whatever is not
 * the expected answer ends it with status 1.
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
#ifdef DEFLATE
#include <zlib.h>
#endif

enum { WARM = 50, LONGEST = 16384, ROOM = 4 * LONGEST, SAMPLES = 1 << 22, PATIENCE_MS = 10000 };
enum { FINAL = 0x80, COMPRESSED = 0x40, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, MASKED = 0x80 };

typedef struct {
    int sock;
    uint64_t answers;
    int64_t sent_at;
    size_t filled;
    uint8_t message[LONGEST], buffer[ROOM];
#ifdef DEFLATE
    z_stream out, in;
    int forgets;
#endif
} Connection;

static uint32_t samples[SAMPLES];
static uint32_t dice = 2463534242u;
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

static void send_all(int sock, const uint8_t *data, size_t length) {
    while (length) {
        ssize_t done = send(sock, data, length, MSG_NOSIGNAL);
        if (done < 0 && errno != EINTR) fail_errno("send");
        if (done > 0) data += done, length -= done;
    }
}

/* RFC 6455 section 5.2; section 5.3: each frame has a mask of its own. */
static void send_frame(int sock, uint8_t first, const uint8_t *payload, size_t length) {
    static uint8_t frame[LONGEST * 2];
    size_t head = 2;
    frame[0] = first;
    if (length < 126) {
        frame[1] = MASKED | length;
    } else {
        frame[1] = MASKED | 126;
        frame[2] = length >> 8;
        frame[3] = length & 255;
        head = 4;
    }
    dice ^= dice << 13, dice ^= dice >> 17, dice ^= dice << 5;
    memcpy(frame + head, &dice, 4);
    const uint8_t *mask = frame + head;
    head += 4;
    for (size_t i = 0; i < length; i++) frame[head + i] = payload[i] ^ mask[i & 3];
    send_all(sock, frame, head + length);
}

/* Letters with a few digits between, as text has them: it can be compressed, but not to nothing. */
static void fill(Connection *one) {
    uint64_t number = one->answers * 0x9e3779b97f4a7c15ull + (uintptr_t)one->sock;
    for (size_t i = 0; i < size; i++) one->message[i] = "the quick brown fox jumps over it "[i % 34];
    for (size_t i = 0; i + 8 <= size; i += 64, number = number * 6364136223846793005ull + 1)
        for (size_t j = 0; j < 8; j++) one->message[i + j] = '0' + (number >> (8 * j)) % 10;
}

static void send_message(Connection *one) {
    fill(one);
#ifdef DEFLATE
    static uint8_t deflated[LONGEST * 2];
    one->out.next_in = one->message, one->out.avail_in = size;
    one->out.next_out = deflated, one->out.avail_out = sizeof deflated;
    if (one->forgets) deflateReset(&one->out);
    if (deflate(&one->out, Z_SYNC_FLUSH) != Z_OK || one->out.avail_in) fail("deflate failed");
    /* RFC 7692 section 7.2.1: without the four bytes that a flush ends in. */
    size_t length = sizeof deflated - one->out.avail_out - 4;
    one->sent_at = now_ns();
    send_frame(one->sock, FINAL | COMPRESSED | BINARY, deflated, length);
#else
    one->sent_at = now_ns();
    send_frame(one->sock, FINAL | BINARY, one->message, size);
#endif
}

static void check(Connection *one, uint8_t first, uint8_t *payload, size_t length) {
    if ((first & ~COMPRESSED) != (FINAL | BINARY)) fail("an answer is no binary message in one frame");
#ifdef DEFLATE
    static uint8_t inflated[LONGEST * 2];
    if (first & COMPRESSED) {
        /* The next frame's head stands where the four bytes belong. */
        uint8_t after[4];
        memcpy(after, payload + length, 4);
        memcpy(payload + length, "\0\0\xff\xff", 4);
        one->in.next_in = payload, one->in.avail_in = length + 4;
        one->in.next_out = inflated, one->in.avail_out = sizeof inflated;
        if (inflate(&one->in, Z_SYNC_FLUSH) != Z_OK || one->in.avail_in) fail("an answer cannot be inflated");
        memcpy(payload + length, after, 4);
        payload = inflated;
        length = sizeof inflated - one->in.avail_out;
    }
#else
    if (first & COMPRESSED) fail("an answer is compressed");
#endif
    if (length != size || memcmp(payload, one->message, size)) fail("an answer is not what was sent");
}

/* Takes what is complete out of the buffer; 1 if the answer was there. */
static int take(Connection *one) {
    int answered = 0;
    size_t at = 0;
    while (one->filled - at >= 2) {
        uint8_t *frame = one->buffer + at;
        size_t head = 2, length = frame[1];
        if (length == 126) {
            if (one->filled - at < 4) break;
            length = frame[2] << 8 | frame[3];
            head = 4;
        } else if (length > 126) {
            fail("a frame is masked or far too long");
        }
        if (length > LONGEST) fail("a frame is too long");
        if (one->filled - at < head + length) break;
        int code = frame[0] & 15;
        if (code == CLOSE) fail("the server closed a connection");
        if (code == PING) {
            send_frame(one->sock, FINAL | PONG, frame + head, length);
        } else if (code != PONG) {
            if (answered) fail("there are more answers than messages");
            check(one, frame[0], frame + head, length);
            answered = 1;
        }
        at += head + length;
    }
    memmove(one->buffer, one->buffer + at, one->filled - at);
    one->filled -= at;
    return answered;
}

static void open_connection(Connection *one, int port) {
    /* The example of RFC 6455 section 1.3. */
    static const char request[] =
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
#ifdef DEFLATE
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
#endif
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    struct timeval patience = {PATIENCE_MS / 1000, 0};
    one->sock = socket(AF_INET, SOCK_STREAM, 0);
    if (one->sock < 0 || connect(one->sock, (struct sockaddr *)&server, sizeof server) < 0) fail_errno("connect");
    setsockopt(one->sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(one->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    send_all(one->sock, (const uint8_t *)request, sizeof request - 1);
    char answer[4096];
    size_t filled = 0;
    do {
        ssize_t count = recv(one->sock, answer + filled, sizeof answer - 1 - filled, 0);
        if (count <= 0) fail("a handshake was not answered");
        answer[filled += count] = 0;
    } while (!strstr(answer, "\r\n\r\n") && filled < sizeof answer - 1);
    if (strncmp(answer, "HTTP/1.1 101", 12) || !strstr(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        fail("a handshake was refused");
    if (strstr(answer, "\r\n\r\n") + 4 != answer + filled) fail("a server spoke first");
#ifdef DEFLATE
    if (!strcasestr(answer, "permessage-deflate")) fail("the server does not speak permessage-deflate");
    one->forgets = strcasestr(answer, "client_no_context_takeover") != NULL;
    if (deflateInit2(&one->out, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK ||
        inflateInit2(&one->in, -15) != Z_OK)
        fail("zlib does not start");
#else
    if (strcasestr(answer, "sec-websocket-extensions")) fail("the server chose an extension that was not offered");
#endif
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: websocket_load PORT CONNECTIONS SIZE SECONDS\n");
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
    for (uint32_t i = 0; i < count; i++) send_message(&connections[i]);

    uint64_t counted = 0;
    int64_t ends = 0, now = 0;
    while (!ends || now < ends) {
        struct epoll_event ready[64];
        int found = epoll_wait(poll, ready, 64, PATIENCE_MS);
        if (found == 0) fail("no answers");
        for (int i = 0; i < found; i++) {
            Connection *one = ready[i].data.ptr;
            /* Four bytes stay free for check(). */
            ssize_t length = recv(one->sock, one->buffer + one->filled, ROOM - 4 - one->filled, MSG_DONTWAIT);
            if (length < 0 && errno == EAGAIN) continue;
            if (length <= 0) fail("a connection was lost");
            one->filled += length;
            if (!take(one)) continue;
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
            send_message(one);
        }
        now = now_ns();
    }
    uint64_t kept = counted < SAMPLES ? counted : SAMPLES;
    qsort(samples, kept, sizeof *samples, ascending);
    printf("%llu %u %u\n", (unsigned long long)counted, kept ? samples[kept / 2] : 0,
           kept ? samples[kept * 99 / 100] : 0);
    return 0;
}
