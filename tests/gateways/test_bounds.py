"""What a setting accepts is the same for an attribute, an option of the command and a configuration file."""

from __future__ import annotations

import math
import sys

import pytest

from cyasgi import cli
from cyasgi._settings import Choice, Integer, Number
from cyasgi.balancing import LoadBalancer
from cyasgi.cli import limits
from cyasgi.gateways.http import HTTPServer
from support.cli import ECHO, application, options as options

LISTENERS = {"http": "127.0.0.1:0", "websocket": "127.0.0.1:0", "udp": "127.0.0.1:0", "tcp": "127.0.0.1:0"}
#: Neither numbers nor words to choose from; what they accept is tested beside what they do.
TEXTS = {
    "--access-log-format",
    "--forwarded-allow-ips",
    "--forwarded-headers",
    "--framing",
    "--multicast-groups",
    "--multicast-interface",
    "--request-id-header",
}
SETTINGS = [
    setting for setting in limits.SETTINGS if isinstance(setting, limits.Limit) and setting.names[0] not in TEXTS
]
SWITCHES = [setting for setting in limits.SETTINGS if isinstance(setting, limits.Switch)]
HUGE = 10**400
#: Which numbers, the smallest and the largest (None: above 0, and whatever is finite), and whether there may be none.
INTS, INTS_OR_NONE = (int, 1, None, False), (int, 1, None, True)
SECONDS, SECONDS_OR_NONE = (float, None, None, False), (float, None, None, True)
BOUNDS = {
    "--max-applications": INTS_OR_NONE,
    "--shutdown-timeout": (float, 0, None, False),
    "--max-pushed": INTS,
    "--max-pushed-bytes": INTS,
    "--checker-interval": (float, 0.001, 3600, False),
    "--max-age": SECONDS_OR_NONE,
    "--max-instances-per-client": INTS_OR_NONE,
    "--max-messages-per-second": SECONDS_OR_NONE,
    "--message-burst": INTS_OR_NONE,
    "--max-limit-keys": INTS,
    "--startup-timeout": SECONDS_OR_NONE,
    "--max-connections": INTS,
    "--max-target-size": INTS,
    "--max-header-size": INTS,
    "--max-header-count": INTS,
    "--max-partial-heads": INTS,
    "--max-body-size": (int, 0, None, True),
    "--first-byte-timeout": SECONDS_OR_NONE,
    "--tls-handshake-timeout": SECONDS,
    "--header-timeout": SECONDS,
    "--body-timeout": SECONDS,
    "--request-timeout": SECONDS_OR_NONE,
    "--keep-alive-timeout": SECONDS,
    "--write-timeout": SECONDS,
    "--min-rate": INTS,
    "--backlog": (int, 1, 2**31 - 1, False),
    "--unix-permissions": (int, 0, 0o777, False),
    "--max-websocket-message-size": INTS_OR_NONE,
    "--max-websocket-queue": INTS,
    "--websocket-handshake-timeout": SECONDS,
    "--websocket-close-timeout": SECONDS,
    "--websocket-ping-interval": SECONDS_OR_NONE,
    "--websocket-ping-timeout": SECONDS_OR_NONE,
    "--max-queue-size": (int, 0, None, False),
    "--max-datagram-size": (int, 1, 65_535, False),
    "--idle-timeout": SECONDS_OR_NONE,
    "--max-message-size": INTS,
    "--max-waiting-bytes": INTS,
    "--silence-timeout": SECONDS_OR_NONE,
    "--message-timeout": SECONDS_OR_NONE,
    "--receive-buffer": (int, 1, 2**30 - 1, True),
}
WORDS = {"--eviction-policy": ("lru", "slru", "refuse"), "--undelivered-to": ("hook", "successor")}
#: None of them is accepted by any setting that is a number.
NOT_NUMBERS = ("", "x", True, False, math.nan, math.inf, -math.inf, -HUGE)


def values(setting):
    """Values at every bound and beside it, and those that are none of a number's."""
    name = setting.names[0]
    if name in WORDS:
        return [*WORDS[name], WORDS[name][0].upper(), None, "", "x", True, 0, 1.5, math.nan]
    bounds = [bound for bound in BOUNDS[name][1:3] if bound is not None]
    beside = [bound + step for bound in bounds for step in (-1, -0.0001, 0, 0.0001, 1)]
    return [*beside, 0, 0.0, -0.0, -1, -0.5, 0.5, 1, 2, 1e300, HUGE, None, *NOT_NUMBERS]


def is_accepted(setting, value):
    """Whether the tables above have the value accepted."""
    name = setting.names[0]
    if name in WORDS:
        return isinstance(value, str) and value in WORDS[name]
    kind, least, most, none = BOUNDS[name]
    if value is None:
        return none
    if isinstance(value, (bool, str)) or (kind is int and not isinstance(value, int)):
        return False
    if kind is float and not abs(value) <= sys.float_info.max:
        return False
    return (value > 0 if least is None else value >= least) and (most is None or value <= most)


def text(setting, value):
    if setting.names[0] == "--unix-permissions" and type(value) is int:
        return f"{value:o}"
    return "none" if value is None else value if isinstance(value, str) else repr(value)


def in_toml(value):
    if isinstance(value, bool):
        return repr(value).lower()
    return repr(value) if isinstance(value, (int, float)) else f'"{"none" if value is None else value}"'


def as_attribute(setting, value):
    """What the attribute becomes; the error if it is refused."""
    server = limits.server_class(setting.kinds[0], managed=True)(application)
    try:
        setattr(server, setting.attribute, value)
    except (TypeError, ValueError) as error:
        return "refused" if str(error).startswith(f"{setting.attribute}={value!r}: accepted is ") else str(error)
    return getattr(server, setting.attribute)


@pytest.fixture
def as_option(options, capsys, tmp_path):
    """as_option(setting, value, in_file) gives what the command sets the attribute to."""

    def as_option(setting, value, in_file):
        kind, name = setting.kinds[0], setting.names[0]
        if in_file:
            (tmp_path / "cyasgi.toml").write_text(f"{name.removeprefix('--')} = {in_toml(value)}\n", encoding="utf-8")
            arguments = ["--config", "cyasgi.toml"]
        else:
            arguments = [f"{name}={text(setting, value)}"]
        arguments = [f"--{kind}", LISTENERS[kind], *arguments, ECHO]
        status, given = options.call(*arguments)
        if status == 0:
            return given.limits[setting.attribute]
        assert status == 2
        assert "accepted " in capsys.readouterr().err
        return "refused"

    return as_option


@pytest.mark.slow
def test_every_setting_is_in_the_tables():
    assert {setting.names[0] for setting in SETTINGS} == BOUNDS.keys() | WORDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.names[0])
def test_bounds(as_option, setting):
    """At every bound the command, the file and the attribute accept the same, as the same value, or refuse it."""
    for value in values(setting):
        expected = value if is_accepted(setting, value) else "refused"
        assert as_option(setting, value, in_file=False) == expected, value
        assert as_option(setting, value, in_file=True) == expected, value
        if setting.attribute == "application_checker_interval":
            # As the reference's it takes anything; the core clamps it where it is used.
            continue
        assert as_attribute(setting, value) == expected, value


@pytest.mark.slow
@pytest.mark.parametrize("setting", SWITCHES, ids=lambda setting: setting.names[0])
def test_switches(options, tmp_path, capsys, setting):
    """A switch is on or off, in a file true or false, and sets what the attribute accepts."""
    kind = setting.kinds[0]
    arguments = [f"--{kind}", LISTENERS[kind], ECHO]
    for on, name in zip((True, False), setting.names, strict=True):
        value = setting.values[not on]
        (tmp_path / "cyasgi.toml").write_text(f"{setting.names[0][2:]} = {str(on).lower()}\n", encoding="utf-8")
        for said in ([name], ["--config", "cyasgi.toml"]):
            found = options(*said, *arguments).limits.get(limits.key_of(setting), limits.OWN)
            assert found is value
        if value is not limits.OWN:
            assert as_attribute(setting, value) is value
    for wrong in ("0", "1", '"true"', "nan"):
        (tmp_path / "cyasgi.toml").write_text(f"{setting.names[0][2:]} = {wrong}\n", encoding="utf-8")
        assert cli.main(["serve", "--config", "cyasgi.toml", *arguments]) == 2
        assert "accepted are true and false" in capsys.readouterr().err
    for wrong in (0, 1, "true", math.nan):
        if setting.attribute != "server_header":
            assert as_attribute(setting, wrong) == "refused"


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        *(("lifespan", mode, mode in ("auto", "on", "off")) for mode in ("auto", "on", "off", "", "ON", "x")),
        *(("root_path", path, path in ("", "/a", "/a b/ü")) for path in ("", "/a", "/a b/ü", "/", "a", "/a/", "a/")),
    ],
)
def test_options_that_are_no_limits(options, capsys, name, value, accepted):
    arguments = ["--http", "127.0.0.1:0", f"--{name.replace('_', '-')}={value}", ECHO]
    server = HTTPServer(application)
    if accepted:
        assert getattr(options(*arguments), name) == value
        setattr(server, name, value)
    else:
        assert cli.main(["serve", *arguments]) == 2
        assert f"'{value}'" in capsys.readouterr().err
        with pytest.raises(ValueError, match=f"^{name}="):
            setattr(server, name, value)


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (1e-6, True),
        (9e-7, False),
        (1e6, True),
        (1_000_001, False),
        (0, False),
        (-1, False),
        (math.nan, False),
        (math.inf, False),
    ],
)
def test_weights(options, capsys, value, accepted):
    """Those of a balancer and of --weight."""
    arguments = ["--http", "127.0.0.1:0", f"--weight={value!r}", "--weight=1", ECHO, ECHO]
    if accepted:
        assert options(*arguments).weight == [value, 1]
        LoadBalancer([application, application], weights=[value, 1])
    else:
        assert cli.main(["serve", *arguments]) == 2
        assert "accepted is a number from 1e-6 to 1e6" in capsys.readouterr().err
        with pytest.raises(ValueError, match="accepted is a number from 1e-6 to 1e6"):
            LoadBalancer([application, application], weights=[value, 1])


@pytest.mark.parametrize("port", ["0", "1", "65535", "65536", "-1", "", "x", "1.5", "+1", "000080", "1:2", "²"])
def test_ports(options, capsys, port):
    """Those of --port and of an address."""
    for arguments in (["--port", port], ["--http", f"127.0.0.1:{port}"], ["--udp", f"127.0.0.1:{port}"]):
        if port in ("0", "1", "65535"):
            listeners = options(*arguments, ECHO).listeners
            assert listeners["udp"] == [("127.0.0.1", int(port))] or listeners["http"] == [
                (("127.0.0.1", int(port)), None)
            ]
        else:
            assert cli.main(["serve", *arguments, ECHO]) == 2
            assert "port from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bound", "accepted", "in_text"),
    [
        (Integer(0), "an int of at least 0", "is a whole number of at least 0"),
        (Integer(1, 9), "an int from 1 to 9", "is a whole number from 1 to 9"),
        (
            Integer(0, zero="no bound", none="never"),
            "an int of at least 0, 0 for no bound, or None for never",
            "are a whole number of at least 0, where 0 stands for no bound, and none for never",
        ),
        (Number(), "a finite number above 0", "is a number, more than 0"),
        (Number(least=0), "a finite number, at least 0", "is a number, 0 or more"),
        (Number(most=1e9), "a number above 0, at most 1e9", "is a number above 0, at most 1e9"),
        (Number(least=1e-6, most=3600), "a number from 1e-6 to 3600", "is a number from 1e-6 to 3600"),
        (Choice(["a", "b"]), "'a' or 'b'", "is 'a' or 'b'"),
    ],
)
def test_words(bound, accepted, in_text):
    """What errors say."""
    with pytest.raises(TypeError) as caught:
        bound("name", b"")
    assert str(caught.value) == f"name=b'': accepted is {accepted}"
    with pytest.raises(ValueError) as caught:
        bound.parse("?")
    assert str(caught.value) == f"'?': accepted {in_text}"
