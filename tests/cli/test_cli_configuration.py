"""Where options come from: the command line, the environment, a file; and what is wrong in them."""

from __future__ import annotations

import ssl
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import limits, reloading, serving, tls
from cyasgi.cli.servers import make_servers
from cyasgi.lifecycle import ManagedServer
from support.certificates import PASSWORD, write_certificates
from support.cli import ECHO, application, file, options as options, refused


@pytest.mark.slow
def test_what_nobody_has_said(options):
    """Limits that nobody has set are left to the servers."""
    given = options("--udp", "127.0.0.1:0", ECHO)
    assert given.limits == {}
    assert given.listeners["udp"] == [("127.0.0.1", 0)]
    assert given.applications == (ECHO,)


def test_a_file_says_it_all(options, tmp_path):
    """A file has whatever options have, by the same names, with dashes or underscores."""
    config = file(
        tmp_path,
        f"""
        application = ["{ECHO}", "{ECHO}"]
        udp = ["127.0.0.1:0", "[::1]:0"]
        http = []
        weight = [3, 1.5]
        max-applications = 5
        max_queue_size = "7"
        idle-timeout = "none"
        timeout-graceful-shutdown = 2.5
        factory = false
        log-level = "warning"
        """,
    )
    given = options(*config)
    assert (given.applications, given.weight) == ((ECHO, ECHO), [3.0, 1.5])
    assert given.listeners["udp"] == [("127.0.0.1", 0), ("::1", 0)]
    assert given.listeners["http"] == []
    assert given.limits == {
        "max_applications": 5,
        "max_queue_size": 7,
        "idle_timeout": None,
        "shutdown_timeout": 2.5,
    }
    assert (given.factory, given.log.level) == (False, "warning")


def test_precedence(options, tmp_path, monkeypatch):
    """The command line comes before the environment, that before the file, and that before the default."""
    config = file(
        tmp_path,
        'application = "no:file"\nudp = "127.0.0.1:1"\nmax-applications = 1\nmax-queue-size = 1\nidle-timeout = 1\n',
    )
    monkeypatch.setenv("CYASGI_SERVE_MAX_APPLICATIONS", "2")
    monkeypatch.setenv("CYASGI_SERVE_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("CYASGI_SERVE_UDP", "127.0.0.1:2 [::1]:2")
    given = options(*config, "--max-applications", "3")
    assert given.limits == {"max_applications": 3, "max_queue_size": 2, "idle_timeout": 1.0}
    assert given.listeners["udp"] == [("127.0.0.1", 2), ("::1", 2)]
    assert given.applications == ("no:file",)
    monkeypatch.setenv("CYASGI_SERVE_APPLICATION", "no:environment")
    assert options(*config).applications == ("no:environment",)
    given = options(*config, "--udp", "127.0.0.1:3", "no:command_line")
    assert given.applications == ("no:command_line",)
    assert given.listeners["udp"] == [("127.0.0.1", 3)]


def test_the_environment(options, tmp_path, monkeypatch):
    """The environment has every option, the file's name too; an empty variable says nothing."""
    file(tmp_path, f'application = "{ECHO}"\nudp = ":0"\n', "elsewhere.toml")
    monkeypatch.setenv("CYASGI_SERVE_CONFIG", "elsewhere.toml")
    monkeypatch.setenv("CYASGI_SERVE_FACTORY", "true")
    monkeypatch.setenv("CYASGI_SERVE_LOG_LEVEL", "")
    monkeypatch.setenv("CYASGI_SERVE_CHECKER_INTERVAL", "0.5")
    given = options()
    assert (given.factory, given.log.level, given.config) == (True, "info", "elsewhere.toml")
    assert given.limits == {"application_checker_interval": 0.5}


def test_variables_that_are_none_of_ours(options, monkeypatch):
    """A variable that looks like an option's and is none is told; those of other parts of cyasgi are not."""
    monkeypatch.setenv("CYASGI_SERVE_MAX_APPLICATION", "2")
    monkeypatch.setenv("CYASGI_BACKEND", "python")
    monkeypatch.setenv("CYASGI_EXTENSION", "none")
    assert options("--udp", ":0", ECHO).ignored == [
        (
            "CYASGI_SERVE_MAX_APPLICATION is not the environment variable of any option; did you mean "
            "CYASGI_SERVE_MAX_APPLICATIONS?"
        )
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("max-aplications = 5", "unknown name 'max-aplications'; did you mean max-applications?"),
        ("[serve]\nmax-applications = 5", "unknown name 'serve'"),
        ('config = "other.toml"', "unknown name 'config'"),
        ("max-applications = 5\nmax_applications = 5", "'max_applications' sets what another name has set already"),
        ("max-applications = 0", "'0': accepted are a whole number of at least 1, and none"),
        ("max-applications = true", "max-applications = True: accepted are a string and a number"),
        ("max-applications = [1]", "accepted are a string and a number"),
        ("idle-timeout = 2020-01-01", "accepted are a string and a number"),
        ("udp = 9999", "'9999' is not an address"),
        ('udp = ["127.0.0.1:0", true]', "accepted are a string, a number, and an array of these"),
        ('udp = {address = "127.0.0.1:0"}', "accepted are a string, a number, and an array of these"),
        ('udp = "9999"', "'9999' is not an address"),
        ('factory = "yes"', "accepted are true and false"),
        ('log-level = "loud"', "'loud' is not one of"),
        ('app-dir = "no/such/place"', "'no/such/place' does not exist"),
        ("max-applications 5", "is not TOML: "),
        ("max-applications = 5\nmax-applications = 6", "is not TOML: "),
    ],
)
def test_what_is_wrong_in_a_file(content, says, options, tmp_path, capsys):
    """Whatever is wrong in a file is told in one line that names the file and what is accepted."""
    arguments = [*file(tmp_path, content), ECHO]
    line = refused(capsys, arguments if "udp" in content else ["--udp", ":0", *arguments])
    assert line.startswith("cyasgi.toml")
    assert says in line


def test_a_file_that_cannot_be_read(options, tmp_path, capsys):
    """A file that is not there, a directory and bytes that are no text are refused."""
    assert "'no.toml' does not exist" in refused(capsys, ["--config", "no.toml", ECHO])
    assert "is a directory" in refused(capsys, ["--config", ".", ECHO])
    (tmp_path / "bytes.toml").write_bytes(b'udp = "\xff"')
    assert "bytes.toml is not TOML" in refused(capsys, ["--config", "bytes.toml", ECHO])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAX_APPLICATIONS", "many", "'many': accepted are a whole number of at least 1"),
        ("UDP", "127.0.0.1:0 9999", "'9999' is not an address"),
        ("FACTORY", "perhaps", "'perhaps' is not a valid boolean"),
        ("LOOP", "twisted", "'twisted' is not one of"),
        ("CONFIG", "no.toml", "'no.toml' does not exist"),
    ],
)
def test_what_is_wrong_in_the_environment(name, value, says, options, monkeypatch, capsys):
    """Whatever is wrong in the environment is told with the variable's name."""
    monkeypatch.setenv(f"CYASGI_SERVE_{name}", value)
    line = refused(capsys, [ECHO] if name == "UDP" else ["--udp", ":0", ECHO])
    assert line.startswith(f"environment variable CYASGI_SERVE_{name}: ")
    assert says in line


def test_names_have_an_option_each(options):
    """Every option but --config can stand in the file, and every one in the environment under its own name."""
    import click

    from cyasgi.cli import configuration, options as table

    parameters = table.parameters()
    variables = [configuration.variable(parameter) for parameter in parameters]
    assert len(set(variables)) == len(variables)
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            assert (
                configuration.variable(parameter) == "CYASGI_SERVE_" + parameter.opts[0][2:].replace("-", "_").upper()
            )


def test_reload_is_for_the_process_that_was_started(options, monkeypatch):
    """--reload supervises, and serves in the process that it has started, which marks none of its own children."""
    supervised = []
    monkeypatch.setattr(reloading, "supervise", lambda given, arguments: supervised.append(arguments) or 0)
    arguments = ["serve", "--reload", "--udp", ":0", ECHO]
    assert cli.main(arguments) == 0
    assert supervised == [arguments]
    monkeypatch.setenv(reloading.MARK, "{}")
    assert options(*arguments[1:]).reload is True
    assert cli.main(arguments) == 0
    assert supervised == [arguments] * 2


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--max-applications", "0", "a whole number of at least 1, and none"),
        ("--limit-concurrency", "-1", "a whole number of at least 1, and none"),
        ("--shutdown-timeout", "-1", "a number of seconds, 0 or more"),
        ("--checker-interval", "0", "a number of seconds from 0.001 to 3600"),
        ("--max-queue-size", "1e3", "a whole number of at least 0"),
        ("--max-datagram-size", "0", "a whole number from 1 to 65535"),
        ("--eviction-policy", "fifo", "'lru' or 'slru'"),
        ("--undelivered-to", "nobody", "'hook' or 'successor'"),
        ("--idle-timeout", "soon", "a number of seconds, more than 0, and none"),
        ("--max-age", "0", "a number of seconds, more than 0, and none"),
        ("--max-instances-per-client", "0", "a whole number of at least 1, and none"),
        ("--max-messages-per-second", "0", "a number, more than 0, and none"),
        ("--message-burst", "0.5", "a whole number of at least 1, and none"),
        ("--max-limit-keys", "none", "a whole number of at least 1"),
        ("--max-connections", "none", "a whole number of at least 1"),
        ("--max-target-size", "8K", "a whole number of at least 1"),
        ("--max-header-size", "", "a whole number of at least 1"),
        ("--max-header-count", "²", "a whole number of at least 1"),
        ("--max-body-size", "-5", "a whole number of at least 0, and none"),
        ("--first-byte-timeout", "nan", "a number of seconds, more than 0"),
        ("--header-timeout", "inf", "a number of seconds, more than 0"),
        ("--body-timeout", "none", "a number of seconds, more than 0"),
        ("--request-timeout", "0", "a number of seconds, more than 0, and none"),
        ("--keep-alive-timeout", "5s", "a number of seconds, more than 0"),
        ("--timeout-keep-alive", "0", "a number of seconds, more than 0"),
        ("--min-rate", "0", "a whole number of at least 1"),
        ("--write-timeout", "-0", "a number of seconds, more than 0"),
        ("--backlog", "0", "a whole number from 1 to 2147483647"),
        ("--http", "8000", "'8000' is not an address: accepted are HOST:PORT"),
        ("--http", "ftp://127.0.0.1:0", "accepted before :// are http and https"),
        ("--http", "https://127.0.0.1:0", "needs --ssl-certfile"),
        ("--websocket", "http://127.0.0.1:0", "accepted before :// are ws and wss"),
        ("--websocket", "wss://127.0.0.1:0", "needs --ssl-certfile"),
        ("--max-websocket-message-size", "1MB", "a whole number of at least 1, and none"),
        ("--ws-max-size", "0", "a whole number of at least 1, and none"),
        ("--max-websocket-queue", "0", "a whole number of at least 1"),
        ("--websocket-handshake-timeout", "none", "a number of seconds, more than 0"),
        ("--websocket-close-timeout", "0", "a number of seconds, more than 0"),
        ("--websocket-ping-interval", "-1", "a number of seconds, more than 0, and none"),
        ("--ws-ping-timeout", "x", "a number of seconds, more than 0, and none"),
        ("--unix", "", "accepted is the path of a socket"),
        ("--host", "127.0.0.1:80", "is not a host"),
        ("--host", "a b", "is not a host"),
        ("--port", "65536", "accepted is a port from 0 to 65535"),
        ("--port", "http", "accepted is a port from 0 to 65535"),
        ("--balance", "random", "'random' is not one of 'round-robin'"),
        ("--balance", "round-robin", "are for several applications, but there is only one"),
        ("--weight", "0", "accepted is a number from 1e-6 to 1e6"),
        ("--weight", "1", "are for several applications, but there is only one"),
        ("--lifespan", "yes", "'yes' is not one of 'auto', 'on', 'off'"),
        ("--root-path", "api", "'api': accepted is a path as in /api, that begins with a slash"),
        ("--ssl-certfile", "no.pem", "'no.pem' does not exist"),
        ("--ssl-keyfile", "some.pem", "options for TLS need a certificate: give --ssl-certfile"),
        ("--ssl-ciphers", "HIGH", "options for TLS need a certificate: give --ssl-certfile"),
        ("--ssl-minimum-version", "TLSv1.1", "'TLSv1.1' is not one of 'TLSv1.2', 'TLSv1.3'"),
        ("--ssl-cert-reqs", "3", "'3' is not one of 'none', 'optional', 'required'"),
        ("--reload-dir", "no/such/place", "'no/such/place' does not exist"),
        ("--reload", "--strict=1", "does not take a value"),
        ("--strict", "--server-headers", "no such option: --server-headers; did you mean --server-header?"),
    ],
)
def test_every_option_refuses_what_is_none_of_its_values(option, value, says, tmp_path, capsys, monkeypatch):
    """A value that an option cannot have is told with what is accepted, before anything is served."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(serving, "configure_logging", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.pem").write_text("", encoding="utf-8")
    line = refused(capsys, ["--http", "127.0.0.1:0", option, value, ECHO])
    assert says in line


def test_every_limit_reaches_its_servers(options):
    """Limits are set on the servers that they concern, and on no other."""
    arguments = ["--http", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--max-applications", "5", "--max-queue-size", "6"]
    arguments += ["--max-body-size", "7", "--no-strict", "--no-server-header", "--timeout-keep-alive", "8"]
    arguments += ["--websocket", "127.0.0.1:0", "--no-websocket-compression", "--ws-ping-interval", "none"]
    arguments += ["--no-date-header", "--cancel-on-disconnect", "--header", "X-A: b:c", "--header", "d:"]
    servers = make_servers(options(*arguments, "--root-path", "/api", ECHO), application)
    http, websocket, udp = servers["http"], servers["websocket"], servers["udp"]
    assert (http.max_applications, http.max_body_size, http.keep_alive_timeout) == (5, 7, 8.0)
    assert (http.strict, http.server_header, http.root_path, http.lifespan) == (False, None, "/api", "off")
    assert (websocket.websocket_compression, websocket.websocket_ping_interval, websocket.strict) == (
        False,
        None,
        False,
    )
    for server in (http, websocket):
        assert (server.date_header, server.cancel_on_disconnect) == (False, True)
        assert server.headers == ((b"x-a", b"b:c"), (b"d", b""))
    assert websocket.websockets_only and not http.websockets_only
    assert http.max_queue_size == type(http).max_queue_size
    assert (udp.max_applications, udp.max_queue_size, udp.idle_timeout) == (5, 6, None)


def test_limits_for_each_client(options):
    """Servers keep limits for each client where one is set, and cost nothing for it where none is."""
    arguments = ["--http", "127.0.0.1:0", "--udp", "127.0.0.1:0", ECHO]
    for server in make_servers(options(*arguments, "--max-age", "none"), application).values():
        assert not isinstance(server, ManagedServer)
    arguments += ["--max-messages-per-second", "2.5", "--max-instances-per-client", "3"]
    for server in make_servers(options(*arguments, "--max-age", "none"), application).values():
        assert isinstance(server, ManagedServer)
        assert (server.max_messages_per_second, server.max_instances_per_key, server.max_age) == (2.5, 3, None)


def test_every_setting_has_an_option():
    """What can be set on the command's servers can be set by an option."""
    # The last one is for subclasses that override `scope_id`.
    elsewhere = {"lifespan", "root_path", "headers", "reconnect_timeout"}
    not_for_requests = {"max_queue_size", "idle_timeout", "eviction_policy", "undelivered_to"}
    for kind in limits.SERVERS:
        server = limits.server_class(kind, managed=True)
        names = {
            name for cls in server.__mro__ for name, value in vars(cls).items() if type(value).__name__ == "Setting"
        }
        expected = names - elsewhere - (not_for_requests if kind != "udp" else set())
        assert expected <= {setting.attribute for setting in limits.SETTINGS if kind in setting.kinds}


def test_listeners(options):
    """--host and --port are uvicorn's, and may be combined with --http and --unix."""
    given = options("--http", "[::1]:80", "--http", "http://:81", "--host", "::1", "--unix", "a b.sock", ECHO)
    assert given.listeners["http"] == [(("::1", 80), None), (("", 81), False), (("::1", 8000), None), "a b.sock"]
    assert options("--port", "0", ECHO).listeners["http"] == [(("127.0.0.1", 0), None)]
    assert options("--host", "", "--port", "1", ECHO).listeners["http"] == [(("", 1), None)]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"keyfile": "empty.pem"}, 1, "empty.pem: no private key is in it (PEM is expected)"),
        ({"certfile": "empty.pem", "keyfile": None}, 1, "empty.pem: no certificate is in it (PEM is expected)"),
        ({"certfile": "key.pem", "keyfile": None}, 1, "key.pem: no certificate is in it (PEM is expected)"),
        ({"keyfile": None}, 1, "cert.pem: no private key is in it (PEM is expected); give --ssl-keyfile"),
        ({"certfile": "junk.pem"}, 1, "junk.pem and key.pem: not a certificate with its key: "),
        ({"keyfile": "other.pem"}, 1, "other.pem: the key is not that of the certificate in cert.pem"),
        ({"keyfile": "locked.pem"}, 2, "locked.pem: the key has a password: give --ssl-keyfile-password"),
        (
            {"keyfile": "locked.pem", "keyfile_password": "wrong"},
            1,
            "locked.pem: the key cannot be read with this password",
        ),
        ({"ca_certs": "empty.pem"}, 1, "empty.pem: no certificates: "),
        ({"ciphers": "NONE-SUCH"}, 2, "--ssl-ciphers 'NONE-SUCH': OpenSSL knows none of these"),
    ],
)
def test_what_is_wrong_with_tls(change, code, says, keys, monkeypatch):
    """Files that are not what they should be, passwords and ciphers: each is told by name."""
    monkeypatch.chdir(keys)
    with pytest.raises(cli.CommandError) as caught:
        tls.make_context(**{**TLS, **change})
    assert str(caught.value).startswith(says)
    assert caught.value.code == code


def test_tls(keys, monkeypatch):
    """A certificate, a key with its password, and certificates that clients have to have."""
    monkeypatch.chdir(keys)
    context = tls.make_context(**TLS)
    assert context.verify_mode == ssl.CERT_NONE
    context = tls.make_context(**{**TLS, "keyfile": "locked.pem", "keyfile_password": PASSWORD, "ca_certs": "cert.pem"})
    assert context.verify_mode == ssl.CERT_REQUIRED
    context = tls.make_context(**{**TLS, "ca_certs": "cert.pem", "cert_reqs": "1"})
    assert context.verify_mode == ssl.CERT_OPTIONAL


TLS = {
    "certfile": "cert.pem",
    "keyfile": "key.pem",
    "keyfile_password": None,
    "ca_certs": None,
    "cert_reqs": "required",
    "ciphers": None,
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A directory with a certificate, its key, the same key with a password, another one, and nothing."""
    path = tmp_path_factory.mktemp("keys")
    write_certificates(path)
    (path / "empty.pem").write_text("", encoding="utf-8")
    junk = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
    (path / "junk.pem").write_text(junk, encoding="utf-8")
    return path
