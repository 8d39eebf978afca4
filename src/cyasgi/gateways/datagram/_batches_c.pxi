# What is C: the system calls, many datagrams each, and the keys by which senders are known again. Linux only.

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>

    enum { CYASGI_BATCH = 64, CYASGI_KEY = 48 };

    /* What the core has for batches; see core/_cy/batch.pxi. */
    typedef struct {
        int (*begin)(PyObject *loop);
        int (*deliver)(PyObject *server, PyObject *scope_id, PyObject *scope, PyObject *message);
        int (*finish)(void);
    } cyasgi_batch_api;

    /* A datagram that waits to be sent: its bytes, which are owned, where to, and where from if that is said. */
    typedef struct {
        PyObject *data;
        unsigned char to[28];
        unsigned char source[20];
        uint8_t to_length, source_length;
    } cyasgi_waiting;

    /* What is known of a sender, and of the address that it has asked. The objects are owned. */
    typedef struct {
        unsigned char key[CYASGI_KEY];
        PyObject *client, *scope_id, *address, *asked;
    } cyasgi_known;

    /* Kept apart from the others by which address was asked, where that is told: family, whether it is told, port, and
       then address, destination and own address of IPv4, or zone, address, destination and interface of IPv6. */
    static inline uint64_t cyasgi_hash(const unsigned char *key, uint64_t hash) {
        uint64_t words[CYASGI_KEY / 8];
        int i, count = key[0] == 4 ? 2 : 6;
        memcpy(words, key, sizeof words);
        for (i = 0; i < count; i++) {
            hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
            hash ^= hash >> 32;
        }
        hash *= 0xD6E8FEB86659FD93u;
        return hash ^ hash >> 32;
    }
    static inline int cyasgi_same_key(const unsigned char *a, const unsigned char *b) {
        return memcmp(a, b, 16) == 0 && (a[0] == 4 || memcmp(a + 16, b + 16, CYASGI_KEY - 16) == 0);
    }

    #if defined(__linux__)
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <sys/socket.h>

    #if !defined(SO_MEMINFO)
    #define SO_MEMINFO 55
    #endif
    #if !defined(SOL_UDP)
    #define SOL_UDP 17
    #endif
    #if !defined(UDP_SEGMENT)
    #define UDP_SEGMENT 103
    #endif
    enum {
        /* Bytes of a datagram that every path takes whole: IPv6's least MTU without its headers. */
        CYASGI_SEGMENT = 1280 - 48,
        /* Bytes of all datagrams that are handed over as one. */
        CYASGI_SEGMENTS = 65000
    };

    typedef union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } cyasgi_control;
    typedef union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
    } cyasgi_out_control;

    typedef struct {
        struct mmsghdr in[CYASGI_BATCH], out[CYASGI_BATCH];
        struct iovec in_parts[CYASGI_BATCH], out_parts[CYASGI_BATCH];
        struct sockaddr_in6 names[CYASGI_BATCH];
        cyasgi_control in_control[CYASGI_BATCH];
        cyasgi_out_control out_control[CYASGI_BATCH];
        /* The buffers of datagrams that come in, and the most that each holds. */
        char *space;
        size_t room;
        /* How many headers the system has written to. */
        int used;
    } cyasgi_buffers;

    static cyasgi_buffers *cyasgi_new_buffers(void) {
        int i;
        cyasgi_buffers *b = calloc(1, sizeof *b);
        if (b != NULL) {
            b->used = CYASGI_BATCH;
            for (i = 0; i < CYASGI_BATCH; i++) {
                b->in[i].msg_hdr.msg_name = &b->names[i];
                b->in[i].msg_hdr.msg_iov = &b->in_parts[i];
                b->in[i].msg_hdr.msg_iovlen = 1;
                b->in[i].msg_hdr.msg_control = &b->in_control[i];
                b->out[i].msg_hdr.msg_iov = &b->out_parts[i];
                b->out[i].msg_hdr.msg_iovlen = 1;
            }
        }
        return b;
    }
    static void cyasgi_free_buffers(cyasgi_buffers *b) {
        if (b != NULL) {
            free(b->space);
            free(b);
        }
    }
    /* Makes room for datagrams of this length; memory that is never written to costs nothing. */
    static int cyasgi_make_room(cyasgi_buffers *b, size_t room) {
        /* Cache lines, an odd number of them: then the beginnings of all buffers do not share a few lines of the cache. */
        size_t lines = (room + 63) / 64 | 1;
        char *space;
        int i;
        if (b->room == room) {
            return 0;
        }
        space = malloc(lines * 64 * CYASGI_BATCH);
        if (space == NULL) {
            return -1;
        }
        free(b->space);
        b->space = space;
        b->room = room;
        for (i = 0; i < CYASGI_BATCH; i++) {
            b->in_parts[i].iov_base = space + lines * 64 * i;
            b->in_parts[i].iov_len = room;
        }
        return 0;
    }
    /* Returns how many datagrams came, or an error number, negative. */
    static int cyasgi_receive(cyasgi_buffers *b, int fd) {
        int i, count;
        for (i = 0; i < b->used; i++) {
            b->in[i].msg_hdr.msg_namelen = sizeof(struct sockaddr_in6);
            b->in[i].msg_hdr.msg_controllen = sizeof(cyasgi_control);
        }
        do {
            count = recvmmsg(fd, b->in, CYASGI_BATCH, MSG_DONTWAIT, NULL);
        } while (count < 0 && errno == EINTR);
        b->used = count < 0 ? 0 : count;
        return count < 0 ? -errno : count;
    }
    static inline const char *cyasgi_data(cyasgi_buffers *b, int i) { return b->in_parts[i].iov_base; }
    static inline Py_ssize_t cyasgi_length(cyasgi_buffers *b, int i) { return b->in[i].msg_len; }
    static inline int cyasgi_truncated(cyasgi_buffers *b, int i) {
        return (b->in[i].msg_hdr.msg_flags & MSG_TRUNC) != 0;
    }

    /* How many datagrams the system has dropped, as it counts; 0 if it does not tell. SO_RXQ_OVFL tells it with each
       datagram, which costs more for each than this call does for all. */
    static uint32_t cyasgi_dropped(int fd) {
        uint32_t numbers[9];
        socklen_t size = sizeof numbers;
        if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, numbers, &size) < 0 || size != sizeof numbers) {
            return 0;
        }
        return numbers[8];
    }

    static void cyasgi_add_destination(struct msghdr *head, unsigned char *key) {
        struct cmsghdr *one;
        for (one = CMSG_FIRSTHDR(head); one != NULL; one = CMSG_NXTHDR(head, one)) {
            if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == IP_PKTINFO && key[0] == 4) {
                struct in_pktinfo info;
                memcpy(&info, CMSG_DATA(one), sizeof info);
                key[1] = 1;
                memcpy(key + 8, &info.ipi_addr, 4);
                memcpy(key + 12, &info.ipi_spec_dst, 4);
            } else if (one->cmsg_level == IPPROTO_IPV6 && one->cmsg_type == IPV6_PKTINFO && key[0] == 6) {
                struct in6_pktinfo info;
                memcpy(&info, CMSG_DATA(one), sizeof info);
                key[1] = 1;
                memcpy(key + 24, &info.ipi6_addr, 16);
                if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr)) {
                    memcpy(key + 40, &info.ipi6_ifindex, 4);
                }
            }
        }
    }
    /* Writes the key of a datagram's sender; returns 0 if it has none. */
    static int cyasgi_key(cyasgi_buffers *b, int i, int asks, unsigned char *key) {
        struct msghdr *head = &b->in[i].msg_hdr;
        if (head->msg_namelen >= sizeof(struct sockaddr_in) && b->names[i].sin6_family == AF_INET) {
            struct sockaddr_in name;
            memcpy(&name, &b->names[i], sizeof name);
            memset(key, 0, 16);
            key[0] = 4;
            memcpy(key + 2, &name.sin_port, 2);
            memcpy(key + 4, &name.sin_addr, 4);
        } else if (head->msg_namelen >= sizeof(struct sockaddr_in6) && b->names[i].sin6_family == AF_INET6) {
            struct sockaddr_in6 *name = &b->names[i];
            memset(key, 0, CYASGI_KEY);
            key[0] = 6;
            memcpy(key + 2, &name->sin6_port, 2);
            memcpy(key + 4, &name->sin6_scope_id, 4);
            memcpy(key + 8, &name->sin6_addr, 16);
        } else {
            return 0;
        }
        if (asks) {
            cyasgi_add_destination(head, key);
        }
        return 1;
    }
    /* inet_ntop() for IPv4, which prints by way of a format: a tenth of the instructions. */
    static inline void cyasgi_format_ipv4(const unsigned char *address, char *text) {
        int part;
        for (part = 0; part < 4; part++) {
            unsigned value = address[part];
            if (value >= 100) {
                *text++ = (char)('0' + value / 100);
            }
            if (value >= 10) {
                *text++ = (char)('0' + value / 10 % 10);
            }
            *text++ = (char)('0' + value % 10);
            *text++ = part < 3 ? '.' : 0;
        }
    }
    static int cyasgi_host(const unsigned char *key, char *text) {
        if (key[0] == 4) {
            cyasgi_format_ipv4(key + 4, text);
            return 1;
        }
        return inet_ntop(AF_INET6, key + 8, text, INET6_ADDRSTRLEN) != NULL;
    }
    static int cyasgi_port(const unsigned char *key) { return key[2] << 8 | key[3]; }
    static uint32_t cyasgi_zone(const unsigned char *key) {
        uint32_t zone = 0;
        if (key[0] == 6) {
            memcpy(&zone, key + 4, sizeof zone);
        }
        return zone;
    }

    /* inet_pton() for what inet_ntop() has written: four times as fast. Returns 0 for all else. */
    static inline int cyasgi_parse_ipv4(const char *text, unsigned char *address) {
        int part;
        for (part = 0; part < 4; part++) {
            unsigned value = (unsigned char)*text - '0';
            if (value > 9) {
                return 0;
            }
            text++;
            while ((unsigned char)(*text - '0') <= 9) {
                value = value * 10 + (unsigned char)(*text++ - '0');
                if (value > 255) {
                    return 0;
                }
            }
            address[part] = (unsigned char)value;
            if (*text++ != (part < 3 ? '.' : 0)) {
                return 0;
            }
        }
        return 1;
    }

    /* Writes where to send; returns 0 if the host is no such address. */
    static int cyasgi_fill(cyasgi_waiting *w, int six, const char *host, int port, uint32_t flow, uint32_t zone) {
        if (six) {
            struct sockaddr_in6 to;
            memset(&to, 0, sizeof to);
            to.sin6_family = AF_INET6;
            to.sin6_port = htons(port);
            to.sin6_flowinfo = htonl(flow);
            to.sin6_scope_id = zone;
            memcpy(w->to, &to, sizeof to);
            w->to_length = sizeof to;
            return inet_pton(AF_INET6, host, w->to + offsetof(struct sockaddr_in6, sin6_addr)) == 1;
        } else {
            struct sockaddr_in to;
            memset(&to, 0, sizeof to);
            to.sin_family = AF_INET;
            to.sin_port = htons(port);
            memcpy(w->to, &to, sizeof to);
            w->to_length = sizeof to;
            return cyasgi_parse_ipv4(host, w->to + offsetof(struct sockaddr_in, sin_addr));
        }
    }
    static void cyasgi_put_source(struct msghdr *head, cyasgi_waiting *w) {
        struct cmsghdr *one = CMSG_FIRSTHDR(head);
        if (w->source_length == 4) {
            struct in_pktinfo info;
            memset(&info, 0, sizeof info);
            memcpy(&info.ipi_spec_dst, w->source, 4);
            one->cmsg_level = IPPROTO_IP;
            one->cmsg_type = IP_PKTINFO;
            one->cmsg_len = CMSG_LEN(sizeof info);
            memcpy(CMSG_DATA(one), &info, sizeof info);
            head->msg_controllen = CMSG_SPACE(sizeof info);
        } else {
            one->cmsg_level = IPPROTO_IPV6;
            one->cmsg_type = IPV6_PKTINFO;
            one->cmsg_len = CMSG_LEN(sizeof(struct in6_pktinfo));
            memcpy(CMSG_DATA(one), w->source, sizeof(struct in6_pktinfo));
            head->msg_controllen = CMSG_SPACE(sizeof(struct in6_pktinfo));
        }
    }
    static void cyasgi_put_segment(struct msghdr *head, cyasgi_out_control *control, size_t begin, size_t size) {
        uint16_t segment = (uint16_t)size;
        struct cmsghdr *one = (struct cmsghdr *)(control->bytes + begin);
        one->cmsg_level = SOL_UDP;
        one->cmsg_type = UDP_SEGMENT;
        one->cmsg_len = CMSG_LEN(sizeof segment);
        memcpy(CMSG_DATA(one), &segment, sizeof segment);
        head->msg_controllen = begin + CMSG_SPACE(sizeof segment);
    }
    /* Whether the system splits what is sent into datagrams of one size (since Linux 4.18). */
    static int cyasgi_splits(int fd) {
        int size;
        socklen_t length = sizeof size;
        return getsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, &length) == 0;
    }
    /* Returns whether two datagrams go the same way. */
    static inline int cyasgi_same_way(const cyasgi_waiting *a, const cyasgi_waiting *b) {
        return a->to_length == b->to_length && a->source_length == b->source_length &&
            memcmp(a->to, b->to, a->to_length) == 0 && memcmp(a->source, b->source, a->source_length) == 0;
    }
    /* Sends what waits in a ring of this size (less one), at most a batch; returns how many the system has taken, or an
       error number, negative, of the first one. Where the system `splits`, neighbours of one size that go the same way
       are handed over as one, the last of which may be shorter. If it refuses to split, `*splits` is cleared. */
    static int cyasgi_send(
        cyasgi_buffers *b, int fd, cyasgi_waiting *ring, size_t head, size_t count, size_t mask, int *splits
    ) {
        int none = 0, i = 0, messages = 0, done, sent, some = count < CYASGI_BATCH ? (int)count : CYASGI_BATCH;
        while (i < some) {
            cyasgi_waiting *w = &ring[(head + i) & mask];
            struct msghdr *message = &b->out[messages].msg_hdr;
            size_t size = PyBytes_GET_SIZE(w->data), all = size;
            int first = i;
            b->out_parts[i].iov_base = PyBytes_AS_STRING(w->data);
            b->out_parts[i].iov_len = size;
            i++;
            if (*splits && size > 0 && size <= CYASGI_SEGMENT) {
                size_t next = size;
                while (i < some && next == size) {
                    cyasgi_waiting *other = &ring[(head + i) & mask];
                    next = PyBytes_GET_SIZE(other->data);
                    if (next == 0 || next > size || all + next > CYASGI_SEGMENTS || !cyasgi_same_way(w, other)) {
                        break;
                    }
                    b->out_parts[i].iov_base = PyBytes_AS_STRING(other->data);
                    b->out_parts[i].iov_len = next;
                    all += next;
                    i++;
                }
            }
            message->msg_name = w->to;
            message->msg_namelen = w->to_length;
            message->msg_iov = &b->out_parts[first];
            message->msg_iovlen = i - first;
            message->msg_control = &b->out_control[messages];
            message->msg_controllen = sizeof b->out_control[messages];
            if (w->source_length) {
                cyasgi_put_source(message, w);
            } else {
                message->msg_controllen = 0;
            }
            if (i - first > 1) {
                cyasgi_put_segment(message, &b->out_control[messages], message->msg_controllen, size);
            }
            messages++;
        }
        do {
            done = sendmmsg(fd, b->out, messages, MSG_DONTWAIT);
        } while (done < 0 && errno == EINTR);
        if (done < 0) {
            int error = errno;
            if (error == EAGAIN || b->out[0].msg_hdr.msg_iovlen == 1) {
                return -error;
            }
            /* One by one, so that an error is that of the first datagram alone. */
            sent = cyasgi_send(b, fd, ring, head, count, mask, &none);
            if (sent > 0 && (error == EIO || error == EINVAL || error == EOPNOTSUPP)) {
                *splits = 0;
            }
            return sent;
        }
        for (i = 0, sent = 0; i < done; i++) {
            sent += (int)b->out[i].msg_hdr.msg_iovlen;
        }
        return sent;
    }

    #else

    /* The transport is not used; the rest of the module is. */
    typedef struct { int used; } cyasgi_buffers;
    static cyasgi_buffers *cyasgi_new_buffers(void) { return calloc(1, sizeof(cyasgi_buffers)); }
    static void cyasgi_free_buffers(cyasgi_buffers *b) { free(b); }
    static int cyasgi_make_room(cyasgi_buffers *b, size_t room) { return 0; }
    static int cyasgi_receive(cyasgi_buffers *b, int fd) { return -EINVAL; }
    static const char *cyasgi_data(cyasgi_buffers *b, int i) { return ""; }
    static Py_ssize_t cyasgi_length(cyasgi_buffers *b, int i) { return 0; }
    static int cyasgi_truncated(cyasgi_buffers *b, int i) { return 0; }
    static uint32_t cyasgi_dropped(int fd) { return 0; }
    static int cyasgi_key(cyasgi_buffers *b, int i, int asks, unsigned char *key) { return 0; }
    static int cyasgi_host(const unsigned char *key, char *text) { return 0; }
    static int cyasgi_port(const unsigned char *key) { return 0; }
    static uint32_t cyasgi_zone(const unsigned char *key) { return 0; }
    static int cyasgi_fill(cyasgi_waiting *w, int six, const char *host, int port, uint32_t flow, uint32_t zone) {
        return 0;
    }
    static int cyasgi_splits(int fd) { return 0; }
    static int cyasgi_send(
        cyasgi_buffers *b, int fd, cyasgi_waiting *ring, size_t head, size_t count, size_t mask, int *splits
    ) {
        return -EINVAL;
    }
    #endif
    """
    int EAGAIN
    ctypedef struct cyasgi_batch_api:
        bint (*begin)(object loop) noexcept
        int (*deliver)(object server, object scope_id, object scope, object message) except -1
        int (*finish)() except -1
    enum:
        CYASGI_BATCH
        CYASGI_KEY
    ctypedef struct cyasgi_waiting:
        PyObject *data
        unsigned char *source
        unsigned char source_length
    ctypedef struct cyasgi_known:
        unsigned char *key
        PyObject *client
        PyObject *scope_id
        PyObject *address
        PyObject *asked
    ctypedef struct cyasgi_buffers:
        pass
    unsigned long long cyasgi_hash(const unsigned char *key, unsigned long long seed) nogil
    bint cyasgi_same_key(const unsigned char *a, const unsigned char *b) nogil
    cyasgi_buffers *cyasgi_new_buffers()
    void cyasgi_free_buffers(cyasgi_buffers *)
    int cyasgi_make_room(cyasgi_buffers *, size_t room)
    int cyasgi_receive(cyasgi_buffers *, int fd)
    const char *cyasgi_data(cyasgi_buffers *, int i)
    Py_ssize_t cyasgi_length(cyasgi_buffers *, int i)
    bint cyasgi_truncated(cyasgi_buffers *, int i)
    unsigned int cyasgi_dropped(int fd)
    bint cyasgi_key(cyasgi_buffers *, int i, bint asks, unsigned char *key)
    bint cyasgi_host(const unsigned char *key, char *text)
    int cyasgi_port(const unsigned char *key)
    unsigned int cyasgi_zone(const unsigned char *key)
    bint cyasgi_fill(cyasgi_waiting *, bint six, const char *host, int port, unsigned int flow, unsigned int zone)
    bint cyasgi_splits(int fd)
    int cyasgi_send(cyasgi_buffers *, int fd, cyasgi_waiting *ring, size_t head, size_t count, size_t mask, int *splits)
