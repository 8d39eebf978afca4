"""The documentation: its examples run, its commands and options exist, its tables and links say what is so."""

from __future__ import annotations

import ast
import configparser
import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cyasgi
from cyasgi import cli
from cyasgi.balancing import LoadBalancer
from cyasgi.cli import activation, hints, limits, options, serving, supervising
from cyasgi.cli.completion import SHELLS
from cyasgi.core import Setting
from cyasgi.gateways.datagram import DatagramServer
from cyasgi.gateways.http import HTTPServer
from cyasgi.gateways.websocket import WebSocketServer
from cyasgi.lifecycle import ManagedServer
from support.documentation import (
    ROOT,
    Block,
    anchors,
    blocks,
    chapters,
    commands,
    defined_in,
    links,
    name_of,
    prose,
    tables,
    undefined_names,
)
from support.loops import PATIENCE
from support.serving import environment

FRONT = ROOT / "README.md"
CHAPTERS = chapters()
#: Everything that the repository has, and not only what was released of it.
in_checkout = pytest.mark.skipif(
    not (ROOT / ".github").exists() or not (ROOT / "src/cyasgi/README.md").exists(), reason="not a checkout"
)

REQUIRED = (
    "README.md",
    "bench_results/README.md",
    "benchmarks/README.md",
    "src/cyasgi/README.md",
    "src/cyasgi/balancing/README.md",
    "src/cyasgi/cli/README.md",
    "src/cyasgi/core/README.md",
    "src/cyasgi/gateways/README.md",
    "src/cyasgi/instances/README.md",
    "src/cyasgi/lifecycle/README.md",
    "src/cyasgi/metrics/README.md",
    "src/cyasgi/serving/README.md",
    "src/cyasgi/wire/README.md",
    "tests/README.md",
    "tests/drop_in/README.md",
)


def by_name(found: list[Block]) -> list[object]:
    return [pytest.param(block, id=str(block)) for block in found]


@in_checkout
def test_every_room_has_its_chapter():
    assert set(REQUIRED) <= {name_of(path) for path in CHAPTERS}


@in_checkout
def test_the_front_page_is_one_page():
    assert len(FRONT.read_text(encoding="utf-8").splitlines()) <= 250


# ---- examples in Python


@pytest.mark.parametrize("block", by_name(blocks("python")))
def test_no_name_is_undefined(block):
    assert undefined_names(compile(block.code, str(block), "exec")) == set()


def as_tried(code: str) -> str:
    """An example, on ports that are free and with a socket in its own directory."""
    code = re.sub(r'"(?:127\.0\.0\.1|\[::1\]):\d+"', '"127.0.0.1:0"', code)
    return re.sub(r'\("127\.0\.0\.1", \d+\)', '("127.0.0.1", 0)', code).replace("unix:/tmp/", "unix:")


@pytest.mark.slow
@pytest.mark.parametrize("block", by_name(blocks("python")))
def test_examples(cy, tmp_path, block):
    """They run as they stand, as scripts or as tests, and a gateway says that it listens."""
    if sys.platform == "win32" and "unix:" in block.code:
        pytest.skip("asyncio has no Unix sockets on Windows")
    path = tmp_path / "test_example.py"
    path.write_text(as_tried(block.code), encoding="utf-8")
    is_test = "import pytest" in block.code
    how = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if is_test else ["-W", "error", example_runner()]
    done = subprocess.run(
        [sys.executable, *how, str(path)],
        cwd=tmp_path,
        env=environment(CYASGI_BACKEND=cy.backend, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for complaint in ("was destroyed", "never retrieved", "never awaited", "Exception ignored"):
        assert complaint not in said, said
    if is_test:
        assert "1 passed" in said
    elif re.search(r"(?:Server|Sessions|Supervisor)\(.*\)\.run\(\)", block.code):
        assert "served\n" in done.stdout
        assert "listening on" in said


def example_runner() -> str:
    return str(Path(__file__).parents[1] / "support" / "documented_example.py")


# ---- commands


@pytest.fixture
def served(monkeypatch, tmp_path):
    """served(*arguments) gives the options that `cyasgi serve` would have served with."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr(serving, "serve", lambda one: given.append(one) or 0)
    monkeypatch.setattr(supervising, "supervise", lambda one, _: given.append(one) or 0)

    def options_of(*arguments: str):
        assert cli.main(["serve", *arguments]) == 0
        found = given.pop()
        assert found.ignored == []
        return found

    return options_of


def questions() -> set[str]:
    return set(pytest.importorskip("benchmarks.catalogue").QUESTIONS)


def check_benchmarks(arguments: list[str]) -> None:
    words = list(arguments)
    if words[:1] in (["compare"], ["readme"], ["draw"]):
        assert all((ROOT / word).is_dir() for word in words[1:] if word.startswith("bench_results/"))
        return
    while words:
        word = words.pop(0)
        if word in ("--sides", "--loops", "--output"):
            words.pop(0)
        else:
            assert word in ("--quick", "--full", "--list") or word in questions(), word


def check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "benchmarks"]:
        check_benchmarks(arguments[2:])
    elif arguments[:2] == ["-m", "pytest"]:
        for before, word in itertools.pairwise(arguments[1:]):
            known = ("-n", "auto", "--dist", "worksteal", "-m", "not slow", "--no-extension", "-s", "-k")
            assert word in known or before == "-k" or (ROOT / word).exists(), word
    else:
        assert arguments[:2] in (["-m", "venv"], ["-m", "build"], ["setup.py", "build_ext"]), arguments


def check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert arguments[0] == "install"
    for word in arguments[1:]:
        if word != "-e":
            named = re.fullmatch(r"(?:\.|cyasgi)\[([a-z,]+)\]", word)
            assert named, word
            assert set(named[1].split(",")) <= extras.keys()


def check_run(arguments: list[str]) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(arguments) <= {"--list", *re.findall(r"^define ([a-z-]+) ", script, re.MULTILINE)}


def check_git(arguments: list[str]) -> None:
    assert arguments == ["clone", repository()]


def check_uvicorn(arguments: list[str]) -> None:
    main = pytest.importorskip("uvicorn.main").main
    assert main.make_context("uvicorn", list(arguments)).params["http"] == "cyasgi.gateways.uvicorn:Protocol"


def repository() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


#: How the arguments of each command are checked; others are only to be known.
CHECKS = {"python": check_python, "python3": check_python, "pip": check_pip, "run": check_run, "git": check_git}
CHECKS["uvicorn"] = check_uvicorn
KNOWN = {"cd", "curl", "dig", "docker", "echo", "export", "grep", "mypy", "nc", "ruff", "pre-commit", "."}
#: Variables that cyasgi, its setup.py or its tests look at.
VARIABLES = {"CYASGI_BACKEND", "CYASGI_EFFORT", "CYASGI_EXTENSION", "CYASGI_OFFLINE", "CYASGI_SANITIZE"}


@in_checkout
@pytest.mark.slow
@pytest.mark.parametrize("block", by_name(blocks("sh")))
def test_commands(served, block):
    """Each is one that the system has, or that of the project, with arguments that it takes."""
    for arguments in commands(block.code):
        words = list(arguments)
        while words and re.match(r"[A-Z_]+=", words[0]):
            name = words.pop(0).partition("=")[0]
            assert not name.startswith("CYASGI_") or name in VARIABLES
        if not words:
            continue
        name = words[0].rpartition("/")[2]
        if name == "cyasgi" and words[1] == "completion":
            assert words[2] in SHELLS and words[3] == ">" and len(words) == 5
        elif name == "cyasgi":
            assert words[1] == "serve"
            served(*words[2:])
        elif name in CHECKS:
            CHECKS[name](words[1:])
        else:
            assert name in KNOWN, arguments


@in_checkout
@pytest.mark.parametrize("block", by_name(blocks("toml", "ini", "dockerfile")))
def test_configurations(served, tmp_path, monkeypatch, block):
    if block.language == "toml":
        (tmp_path / "cyasgi.toml").write_text(block.code, encoding="utf-8")
        assert served("--config", "cyasgi.toml").applications == ("package.module:application",)
    elif block.language == "ini":
        unit = configparser.ConfigParser()
        unit.read_string(block.code)
        if "Service" in unit:
            [arguments] = commands(unit["Service"]["ExecStart"])
            monkeypatch.setattr(activation, "take_passed", lambda: [activation.Passed("app.socket", 3, "http")])
            served(*arguments[2:])
    else:
        lines = dict(line.split(maxsplit=1) for line in block.code.splitlines())
        check_pip(next(commands(lines["RUN"]))[1:])
        served(*json.loads(lines["CMD"])[2:])


@in_checkout
def test_languages():
    """Whoever adds a block in another language says here what is done about it."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in CHAPTERS)
    languages = set(re.findall(r"^ *```([a-z]+)$", text, re.MULTILINE))
    assert languages == {"python", "sh", "toml", "ini", "dockerfile", "nginx", "text"}


@in_checkout
def test_what_ci_runs_is_marked():
    marked = {block.mark for block in blocks("sh", "python") if block.mark}
    assert marked == {"serve", "talk", "serve-udp", "talk-udp", "test", "example"}
    assert {block.path for block in blocks("sh", "python") if block.mark} == {FRONT}


# ---- options, attributes, counters, loggers

OPTIONS = {name for parameter in options.parameters() for name in parameter.opts + parameter.secondary_opts}
#: Options of the other commands that are mentioned.
OTHERS = {
    *(
        "--check",
        "--full",
        "--list",
        "--loops",
        "--no-extension",
        "--output",
        "--quick",
        "--sides",
        "--symbols",
        "--threshold",
    ),
    *("--help", "--tag", "--strict", "--version"),
    "--metrics",  # of granian
}


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_options_exist(path):
    """Those of the command, those that it has hints about, and a few of others."""
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9_-]*[a-z0-9])", prose(path)))
    assert named - OPTIONS - OTHERS - hints.CALLED.keys() - hints.MISSING.keys() == set()


def cells_of(title: str, path: Path) -> list[list[str]]:
    return [row for head, rows in tables(path) if head[0].startswith(title) for row in rows]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


SERVERS = (cyasgi.StatelessServer, DatagramServer, HTTPServer, WebSocketServer, ManagedServer)


def settings() -> dict[str, set[object]]:
    """The settings of all servers, each with its defaults."""
    found: dict[str, set[object]] = {}
    for server in SERVERS:
        for base in server.__mro__:
            for name, value in vars(base).items():
                if isinstance(value, Setting):
                    found.setdefault(name, set()).add(repr(getattr(server, name)))
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_defaults(path):
    """What a table of attributes says is so."""
    known = settings()
    known["application_checker_interval"] = {repr(cyasgi.StatelessServer.application_checker_interval)}
    for head, rows in tables(path):
        if not head[0].startswith("Attribute"):
            continue
        column = head.index("Default")
        for row in rows:
            names = quoted(row[0])
            values = [value for value in quoted(row[column]) if value not in known]
            assert names
            for name in names:
                assert name in known, name
            for name, value in zip(names, values, strict=True):  # each has its default
                assert repr(ast.literal_eval(value)) in known[name], (name, value, known[name])


@in_checkout
def test_every_setting_and_option_is_told():
    text = "\n".join(path.read_text(encoding="utf-8") for path in CHAPTERS if path.name == "README.md")
    for name in settings():
        assert f"`{name}`" in text, name
    told = [head for path in CHAPTERS for head, _ in tables(path) if head[0].startswith("Attribute")]
    assert len(told) >= 6
    for setting in limits.SETTINGS:
        derived = "--" + setting.attribute.replace("_", "-")
        # "Every limit by its name in Python with dashes", but for those that are named.
        if isinstance(setting, limits.Limit) and setting.names[0] != derived:
            assert f"`{setting.names[0]}` is `{setting.attribute}`" in text, setting.names[0]


@in_checkout
def test_every_counter_is_told():
    text = "\n".join(path.read_text(encoding="utf-8") for path in CHAPTERS if path.name == "README.md")

    async def application(scope, receive, send):
        pass

    for server in SERVERS:
        for counter in server(application).stats():
            assert f"`{counter}`" in text, counter


@in_checkout
def test_every_name_beyond_the_reference_is_told(reference):
    new = {name for name in vars(cyasgi.StatelessServer) if not name.startswith("_")} - set(dir(reference))
    new -= {"max_applications", "application_instances"}  # of every object of the reference's
    told = cells_of("Name", ROOT / "tests/drop_in/README.md")
    names = {name.rpartition(".")[2].removesuffix("()") for row in told for name in quoted(row[0])}
    assert new <= names
    for name in names:
        assert hasattr(cyasgi, name) or name in new or hasattr(cyasgi.ApplicationInstance, name), name


@in_checkout
def test_every_logger_is_told():
    package = Path(cyasgi.__file__).parent
    loggers = set()
    for path in package.rglob("*.py"):
        for literal, name in re.findall(r'getLogger\((?:"(cyasgi\.[^"]*)"|(__name__))\)', path.read_text("utf-8")):
            module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
            loggers.add(literal or (name and module))
    rows = cells_of("Logger", ROOT / "src/cyasgi/serving/README.md")
    assert {name for row in rows for name in quoted(row[0])} == loggers


@in_checkout
def test_the_balancers_arguments():
    """Defaults in brackets are those of the constructor."""
    text = prose(ROOT / "src/cyasgi/balancing/README.md")
    defaults = LoadBalancer.__init__.__kwdefaults__
    for name in ("failure_threshold", "failure_window", "open_time", "probes", "max_attempts"):
        assert f"`{name}` ({defaults[name]:g})" in text, name
    assert "`max_replay`\n(65,536) bytes" in text
    assert defaults["max_replay"] == 65_536


# ---- links


@in_checkout
@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_links(path):
    """They lead to what is there; those of the front page do so on PyPI, too."""
    own = repository()
    raw = own.replace("https://github.com/", "https://raw.githubusercontent.com/")
    for target in links(path):
        if target.startswith(f"{own}/blob/main/"):
            place = ROOT, target.removeprefix(f"{own}/blob/main/")
        elif target.startswith(f"{raw}/main/"):
            place = ROOT, target.removeprefix(f"{raw}/main/")
        elif re.match(r"https?:", target):
            assert not target.startswith(own), target
            continue
        else:
            assert path != FRONT, f"{target} does not work on PyPI"
            place = path.parent, target
        name, _, anchor = place[1].partition("#")
        found = (place[0] / name) if name else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@in_checkout
def test_names_of_files():
    """Files that chapters name in code are there."""
    for path in CHAPTERS:
        for name in re.findall(r"`((?:src|tests|benchmarks|bench_results|\.ci|\.github)/[\w./-]+)`", prose(path)):
            assert (ROOT / name).exists(), (path, name)


# ---- the map


@in_checkout
def test_what_the_map_names_is_there():
    path = ROOT / "src/cyasgi/README.md"
    named = re.findall(r"((?:`[\w.]+`(?:,| and|, and)?\s+)+)(?:of|in)\s+\[`[^`]+`\]\(([^)]+\.py)\)", prose(path))
    assert len(named) >= 25
    for names, module in named:
        known = defined_in(path.parent / module)
        members = {name.partition(".")[2] for name in known}
        for name in quoted(names):
            assert name in known or name in members, f"{name} is not in {module}"


@in_checkout
@pytest.mark.parametrize("path", sorted((ROOT / "src/cyasgi").glob("*/README.md")), ids=name_of)
def test_chapters_name_every_module_of_their_room(path):
    text = path.read_text(encoding="utf-8")
    for module in path.parent.glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in text, module.name
    for part in (*path.parent.glob("_py/*.py"), *path.parent.glob("_cy/*.pxi")):
        assert part.stem == "__init__" or f"`{part.stem}`" in text, part.name
    for folder in path.parent.glob("*/__init__.py"):
        name = folder.parent.name
        assert f"`{name}`" in text or f"`{name}/`" in text, name


@in_checkout
def test_the_map_names_every_room():
    path = ROOT / "src/cyasgi/README.md"
    named = {name for row in cells_of("Room", path) for name in quoted(row[0])}
    package = path.parent
    there = {module.name for module in package.glob("*.py")} | {
        f"{one.parent.name}/" for one in package.glob("*/__init__.py")
    }
    assert there - {"__init__.py", "__main__.py"} == named


@in_checkout
def test_the_chapter_of_the_tests_names_what_they_share_and_use():
    path = ROOT / "tests/README.md"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for module in (path.parent / "support").glob("*.py"):
        assert module.name == "__init__.py" or f"`{module.name}`" in text, module.name
    for room in path.parent.iterdir():
        assert not room.is_dir() or room.name.startswith((".", "_")) or f"`{room.name}`" in text, room.name
    for name in re.findall(r"`(?:support/)?(\w+\.py)`", text):
        there = [path.parent / "support" / name, path.parent / name, ROOT / "src/cyasgi" / name]
        assert any(one.exists() for one in there), name


@in_checkout
def test_every_run_of_benchmarks_is_told():
    folders = {path.name for path in (ROOT / "bench_results").iterdir() if path.is_dir()}
    told = {Path(target).parent.name for target in links(ROOT / "bench_results/README.md")}
    assert folders <= told
