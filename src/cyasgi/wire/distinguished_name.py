"""The subject of a certificate as text (RFC 5280, RFC 4514). Sans-I/O.

Python's `ssl` leaves out the identifiers of attributes and the types of values, and an attribute for which RFC 4514 has
no name cannot be written without them. So the certificate is parsed here.
"""

from __future__ import annotations

#: The names that RFC 4514 section 3 and RFC 4519 have for types of attributes.
NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.4": "sn",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.46": "dnQualifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}

#: The encodings of ASN.1's string types, by their tags.
_ENCODINGS = {
    12: "utf-8",
    18: "ascii",
    19: "ascii",
    20: "latin-1",
    22: "ascii",
    26: "ascii",
    28: "utf-32-be",
    30: "utf-16-be",
}
_OBJECT_IDENTIFIER = 0x06
_VERSION = 0xA0

_ESCAPED = {ord(char): f"\\{char}" for char in '"+,;<>\\'}
# RFC 4514 allows it, and keeps line breaks out of logs and headers.
_ESCAPED |= {code: f"\\{code:02x}" for code in (*range(32), 127)}


def subject_name(certificate: bytes) -> str:
    """Return the subject of an X.509 certificate in DER, as RFC 4514 writes it; empty if it has none.

    Raises:
        ValueError: it is not a certificate.
    """
    try:
        # RFC 5280 section 4.1: Certificate, its TBSCertificate, and what that consists of.
        fields = _parts(certificate, _parts(certificate, _element(certificate, 0))[0])
        subject = fields[5 if certificate[fields[0][0]] == _VERSION else 4]
        # RFC 4514 section 2.1: in reverse order.
        return ",".join(_relative_name(certificate, one) for one in reversed(_parts(certificate, subject)))
    except IndexError:
        raise ValueError("not a certificate in DER: it ends too early") from None


#: Where an element begins, where its contents begin and end, and where it ends.
_Element = tuple[int, int, int, int]


def _element(data: bytes, begin: int) -> _Element:
    if data[begin] & 0x1F == 0x1F:
        raise ValueError("not a certificate in DER: a tag has several bytes")
    length, start = data[begin + 1], begin + 2
    if length == 0x80:
        # The indefinite length of BER: not DER, but OpenSSL accepts it.
        end = start
        while data[end] or data[end + 1]:
            end = _element(data, end)[3]
        return begin, start, end, end + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    end = start + length
    if end > len(data):
        raise IndexError
    return begin, start, end, end


def _parts(data: bytes, element: _Element) -> list[_Element]:
    """Return the elements that this one consists of."""
    _, at, end, _ = element
    parts = []
    while at < end:
        parts.append(_element(data, at))
        at = parts[-1][3]
    return parts


def _relative_name(data: bytes, element: _Element) -> str:
    return "+".join(_attribute(data, *_parts(data, one)[:2]) for one in _parts(data, element))


def _attribute(data: bytes, kind: _Element, value: _Element) -> str:
    if data[kind[0]] != _OBJECT_IDENTIFIER:
        raise ValueError("not a certificate in DER: the type of an attribute is not an identifier")
    identifier = _dotted(data[kind[1] : kind[2]])
    name, encoding = NAMES.get(identifier), _ENCODINGS.get(data[value[0]])
    if name is not None and encoding is not None:
        try:
            return f"{name}={_escape(data[value[1] : value[2]].decode(encoding))}"
        except UnicodeDecodeError:
            pass
    # Section 2.4: without a name, or if it is no text, it is written as it is encoded.
    return f"{name or identifier}=#{data[value[0] : value[3]].hex()}"


def _dotted(contents: bytes) -> str:
    numbers, number = [], 0
    for byte in contents:
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    root = min(numbers[0] // 40, 2)
    return ".".join(map(str, (root, numbers[0] - 40 * root, *numbers[1:])))


def _escape(text: str) -> str:
    """Escape a value (RFC 4514 section 2.4)."""
    escaped = text.translate(_ESCAPED)
    if text.startswith(("#", " ")):
        escaped = "\\" + escaped
    if text.endswith(" ") and len(text) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
