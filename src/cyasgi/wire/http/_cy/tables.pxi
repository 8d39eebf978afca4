# What bytes may be what, the names that many clients send, and the methods.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The first byte from p on that is a control character other than HT, or end. Eight bytes at a time: the sum sets the
       high bit of each byte that is 0x20 to 0x7f, the other one of each that is not 0x7f. */
    static const unsigned char *cyasgi_control(const unsigned char *p, const unsigned char *end) {
        const uint64_t ones = 0x0101010101010101u, high = 0x80u * ones, low = 0x7fu * ones;
        for (;;) {
            const unsigned char *stop;
            while (end - p >= 8) {
                uint64_t word, seven;
                memcpy(&word, p, 8);
                seven = word & low;
                if (((seven + 0x60u * ones) & ((seven ^ low) + low) & high | word & high) != high) break;
                p += 8;
            }
            stop = end - p < 8 ? end : p + 8;
            while (p < stop && (*p >= 0x20 ? *p != 0x7f : *p == 0x09)) p++;
            if (p < stop || p == end) return p;
        }
    }

    /* A number for a name of that many bytes, 1 to 64, of which all but a few are alike for no two USUAL names. */
    static unsigned cyasgi_hash(const unsigned char *name, size_t size) {
        uint64_t first, last;
        if (size >= 8) {
            memcpy(&first, name, 8);
            memcpy(&last, name + size - 8, 8);
        } else if (size >= 4) {
            uint32_t one, other;
            memcpy(&one, name, 4);
            memcpy(&other, name + size - 4, 4);
            first = one; last = other;
        } else {
            first = name[0]; last = (uint64_t)name[size >> 1] << 8 | name[size - 1];
        }
        first = (first ^ size) * 0x9e3779b97f4a7c15u ^ (first >> 32);
        last = (last + size) * 0xc2b2ae3d27d4eb4fu;
        return (unsigned)((first + last) * 0x9e3779b97f4a7c15u >> 55);
    }

    /* Where CRLF CRLF begins, from p on, or NULL. */
    static const unsigned char *cyasgi_head_end(const unsigned char *p, const unsigned char *end) {
        while (end - p >= 4) {
            p = (const unsigned char *)memchr(p, 13, (size_t)(end - p - 3));
            if (p == NULL) return NULL;
            if (p[1] == 10 && p[2] == 13 && p[3] == 10) return p;
            p++;
        }
        return NULL;
    }
    """
    const unsigned char *_control "cyasgi_control"(const unsigned char *p, const unsigned char *end) noexcept nogil
    unsigned int _hash "cyasgi_hash"(const unsigned char *name, size_t size) noexcept nogil
    const unsigned char *_head_end "cyasgi_head_end"(const unsigned char *p, const unsigned char *end) noexcept nogil

cdef enum:
    HT = 9
    LF = 10
    CR = 13
    SP = 32
    C_HASH = 35
    C_PERCENT = 37
    C_STAR = 42
    C_COMMA = 44
    C_SLASH = 47
    C_COLON = 58
    C_QUESTION = 63
    C_AT = 64
    C_OPEN = 91
    C_CLOSE = 93

# What a header is about, if a request's framing or its connection depend on it.
cdef enum:
    PLAIN = 0
    HOST = 1
    CONNECTION = 2
    CONTENT_LENGTH = 3
    TRANSFER_ENCODING = 4
    EXPECT = 5
    TE = 6
    UPGRADE = 7
    PROXY_CONNECTION = 8
    KINDS = 9

cdef dict KIND_OF = {
    b"host": HOST,
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"expect": EXPECT,
    b"te": TE,
    b"upgrade": UPGRADE,
    b"proxy-connection": PROXY_CONNECTION,
}

# Names beside those of `_headers_py` that are not made anew for each request: what proxies, CDNs and clients of APIs add.
cdef tuple MORE_NAMES = tuple(
    (
        b"a-im accept-datetime access-control-request-headers access-control-request-method alt-used apikey baggage"
        b" cdn-loop cf-connecting-ip cf-ipcountry cf-ray cf-visitor client-ip content-disposition content-encoding"
        b" content-language content-md5 content-range correlation-id date device-memory downlink early-data ect etag"
        b" fly-client-ip front-end-https from grpc-timeout http2-settings if-match if-range if-unmodified-since"
        b" idempotency-key last-modified link max-forwards priority proxy-authorization proxy-connection purpose rtt"
        b" save-data sec-ch-prefers-color-scheme sec-ch-ua-arch sec-ch-ua-bitness sec-ch-ua-full-version"
        b" sec-ch-ua-full-version-list sec-ch-ua-model sec-ch-ua-platform-version sec-fetch-storage-access sec-gpc"
        b" sec-purpose server service-worker sourcemap trace-id traceparent tracestate trailer true-client-ip"
        b" viewport-width want-digest warning x-amz-cf-id x-amz-date x-amzn-trace-id x-api-key x-api-version x-auth-token"
        b" x-b3-parentspanid x-b3-sampled x-b3-spanid x-b3-traceid x-client-ip x-cluster-client-ip x-cloud-trace-context"
        b" x-correlation-id x-csrf-token x-csrftoken x-forwarded x-forwarded-port x-forwarded-prefix x-forwarded-scheme"
        b" x-forwarded-server x-forwarded-ssl x-http-method-override x-original-url x-real-port x-requested-by"
        b" x-scheme x-session-id x-trace-id x-user-agent x-xsrf-token"
    ).split()
)

cdef struct Name:
    PyObject *text
    const unsigned char *data
    Py_ssize_t size
    unsigned char kind

cdef enum:
    NAME_SIZE = 64
    SLOTS = 512

# The names, which live as long as the process, each at the first free slot from its hash on.
cdef Name NAMES[SLOTS]

# The lower case of what a token may hold, otherwise 0.
cdef unsigned char LOWER[256]
# What a byte is in a target in origin form: 0 for most, PART for "?" and "%", STOP for what cannot be in one.
cdef unsigned char IN_TARGET[256]
# Whether a byte may be in a URL's authority (llhttp's), in a registered name, and in a literal IPv6 address.
cdef unsigned char IN_SERVER[256]
cdef unsigned char IN_HOST[256]
cdef unsigned char IN_LITERAL[256]

cdef enum:
    PART = 1
    STOP = 2

# The methods that httptools takes with HTTP, the usual ones first, each with the space behind it.
cdef list METHOD_NAMES = (
    "GET POST PUT HEAD DELETE OPTIONS PATCH TRACE QUERY PROPFIND REPORT PROPPATCH MKCOL MKCALENDAR COPY MOVE LOCK UNLOCK"
    " SEARCH ACL BIND REBIND UNBIND MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE LINK UNLINK SOURCE"
).split()
# Those that it knows from RTSP alone.
cdef frozenset FOREIGN_METHODS = frozenset(
    "DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)
cdef list METHOD_STARTS = [name.encode() + b" " for name in METHOD_NAMES]

cdef enum:
    METHOD_COUNT = 34

cdef const unsigned char *METHOD_DATA[METHOD_COUNT]
cdef Py_ssize_t METHOD_SIZES[METHOD_COUNT]


cdef int _add_name(bytes name) except -1:
    cdef unsigned int slot = _hash(<const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    while NAMES[slot].text is not NULL:
        if <bytes>NAMES[slot].text == name:
            return 0
        slot = (slot + 1) % SLOTS
    # Never given back.
    Py_INCREF(name)
    NAMES[slot].text = <PyObject *>name
    NAMES[slot].data = <const unsigned char *>PyBytes_AS_STRING(name)
    NAMES[slot].size = PyBytes_GET_SIZE(name)
    NAMES[slot].kind = KIND_OF.get(name, PLAIN)
    return 0


cdef int _fill_tables() except -1:
    cdef int byte, number
    for byte in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        LOWER[byte] = byte | 32 if 65 <= byte <= 90 else byte
    for byte in range(256):
        IN_TARGET[byte] = STOP if byte < 33 or byte > 126 or byte == C_HASH else PART if byte in b"?%" else 0
    for byte in b"!$%&'()*+,-.0123456789:;=ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~":
        IN_SERVER[byte] = 1
    for byte in b"-._~!$&'()*+,;=%0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        IN_HOST[byte] = 1
    for byte in b":.0123456789ABCDEFabcdef":
        IN_LITERAL[byte] = 1
    for name in (*USUAL, *MORE_NAMES):
        _add_name(name.lower())
    assert len(METHOD_STARTS) == METHOD_COUNT
    for number in range(METHOD_COUNT):
        METHOD_DATA[number] = <const unsigned char *>PyBytes_AS_STRING(METHOD_STARTS[number])
        METHOD_SIZES[number] = PyBytes_GET_SIZE(METHOD_STARTS[number])
    return 0


_fill_tables()
