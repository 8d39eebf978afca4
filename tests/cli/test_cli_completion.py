"""Completion by real shells: of commands, options, their values, and names of applications."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from cyasgi import cli
from cyasgi.cli import options
from cyasgi.cli.completion import SHELLS
from cyasgi.cli.completion.applications import BUNDLED, MOST_BYTES, complete
from support.documentation import ROOT, tables
from support.loops import PATIENCE
from support.real_clients import tool
from support.shells import ALL, COMPLETE, Shell

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these shells are for POSIX systems")

#: Whoever imports it is told on: it ends the process.
MODULE = "import sys\nsys.exit('imported')\napp = sys.intern\nNUMBER = 1\n\ndef create():\n    pass\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a module, a package and a file, and in `bin` the command."""
    path = tmp_path_factory.mktemp("completed")
    (path / "main.py").write_text(MODULE, encoding="utf-8")
    (path / "package").mkdir()
    (path / "package" / "web.py").write_text(MODULE.replace("create", "make"), encoding="utf-8")
    (path / "settings.toml").touch()
    (path / "bin").mkdir()
    command = path / "bin" / "cyasgi"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom _cyasgi_command import main\nsys.exit(main())\n", encoding="utf-8"
    )
    command.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def scripts(folder, request):
    """The path of the script for each shell."""
    paths = {}
    for shell in SHELLS:
        paths[shell] = folder / f".script.{shell}"
        script = subprocess.run(
            [folder / "bin" / "cyasgi", "completion", shell], capture_output=True, timeout=PATIENCE, check=True
        )
        paths[shell].write_bytes(script.stdout)
    return paths


def inherited(folder):
    """The environment of a shell in which the command is found first."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return {**kept, "PATH": f"{folder / 'bin'}{os.pathsep}{kept['PATH']}"}


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request, folder, scripts):
    with Shell(request.param, f"source {scripts[request.param]}", folder, inherited(folder)) as one:
        yield one


def completed(shell, typed):
    """What it becomes, but for what a shell puts behind it: a space, or in zsh a = that goes with the next space."""
    line = shell.line(f"{typed}{COMPLETE}").rstrip()
    return line if typed.endswith("=") else line.removesuffix("=")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("ser", "serve "),
        ("--vers", "--version "),
        ("completion f", "completion fish "),
        ("serve --log-lev", "serve --log-level "),
        ("serve --log-level warn", "serve --log-level warning "),
        ("serve --loop=uv", "serve --loop=uvloop "),
        ("check --lifespan of", "check --lifespan off "),
        ("serve --conf", "serve --config "),
        ("serve --config set", "serve --config settings.toml "),
        ("serve --config=set", "serve --config=settings.toml "),
        ("serve --config ~/set", "serve --config ~/settings.toml "),
        ("serve --app-dir pack", "serve --app-dir package/"),
        ("serve --user roo", "serve --user root "),
        ("serve --http set", "serve --http set"),
        ("serve --root-path set", "serve --root-path set"),
        ("serve --uds set", "serve --uds settings.toml "),
        ("serve --http :80 main:a", "serve --http :80 main:app "),
        ("check --factory main:cr", "check --factory main:create "),
        ("serve package.w", "serve package.web:"),
        ("serve package.web:ma", "serve package.web:make "),
        ("serve pack", "serve package."),
        ("serve --app-dir package web:ap", "serve --app-dir package web:app "),
        ("serve --app-dir=package web:ap", "serve --app-dir=package web:app "),
        ("serve --no-server-header cyasgi.examples:he", "serve --no-server-header cyasgi.examples:hello "),
        ("serve nowhere:", "serve nowhere:"),
    ],
)
def test_what_a_word_becomes(shell, typed, becomes):
    assert completed(shell, f"cyasgi {typed}") == f"cyasgi {becomes}".rstrip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["check", "completion", "consume", "serve", "work"]),
        ("serve --log-format ", ["json", "text"]),
        ("serve --reload-d", ["--reload-delay", "--reload-dir"]),
        ("serve --no-d", ["--no-date-header"]),
        ("serve main:", ["main:app", "main:create"]),
        ("serve ma", ["main:app", "main:create"]),
        ("serve cyasgi.d", ["cyasgi.dns:example"]),
    ],
)
def test_what_is_offered(shell, typed, offered):
    words = shell.line(f"cyasgi {typed}{ALL}").split()
    kept = len(typed.split()) + (typed.endswith(" ") or not typed)
    # bash splits a word at its colon, and so leaves out what is before that for all but the first.
    found = sorted(word.removesuffix("=").rpartition(":")[2] for word in words[kept:])
    assert found == [word.rpartition(":")[2] for word in offered]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", {"check", "completion", "consume", "serve", "work"}),
        ("completion ", {"bash", "fish", "zsh"}),
        ("serve --log-format ", {"json", "text"}),
        ("serve --log-format=", {"--log-format=json", "--log-format=text"}),
        ("serve --reload-d", {"--reload-delay", "--reload-dir"}),
        ("serve --config set", {"settings.toml"}),
        ("serve --app-dir pack", {"package/"}),
        ("serve --http set", set()),
        ("serve main:", {"main:app", "main:create"}),
        ("check --app-dir=package ", {"web:app", "web:make"}),
        ("check --app-dir package ", {"web:app", "web:make"}),
        ("serve cyasgi.d", {"cyasgi.dns:example"}),
    ],
)
def test_fish(folder, scripts, typed, offered):
    line = subprocess.run(
        [tool("fish"), "--no-config", "-c", f"source {scripts['fish']}; complete -C 'cyasgi {typed}'"],
        cwd=folder,
        env={**inherited(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert {line.partition("\t")[0] for line in line.stdout.splitlines()} == offered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "place", "commands"),
    [
        (
            "bash",
            ".local/share/bash-completion/completions/cyasgi",
            "source /usr/share/bash-completion/bash_completion",
        ),
        ("zsh", ".zfunc/_cyasgi", ""),
    ],
)
def test_where_it_is_installed(folder, scripts, tmp_path, shell, place, commands):
    """A script is found in the place that the chapter names; in bash, by the package bash-completion."""
    if commands and not os.path.exists(commands.split()[1]):
        pytest.skip("bash-completion is not installed")
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(scripts[shell].read_bytes())
    (tmp_path / "main.py").write_text(MODULE, encoding="utf-8")
    with Shell(shell, commands, tmp_path, inherited(folder)) as one:
        for _ in range(2):  # the first time, it is loaded
            assert completed(one, "cyasgi serve --log-fo") == "cyasgi serve --log-format"
        assert completed(one, "cyasgi serve --factory main:cr") == "cyasgi serve --factory main:create"


@pytest.mark.slow
def test_where_fish_finds_it(folder, scripts, tmp_path):
    path = tmp_path / ".config/fish/completions/cyasgi.fish"
    path.parent.mkdir(parents=True)
    path.write_bytes(scripts["fish"].read_bytes())
    done = subprocess.run(
        [tool("fish"), "-c", "complete -C 'cyasgi ser'"],
        cwd=tmp_path,
        env={**inherited(folder), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.startswith("serve\t")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_known(capsys, shell):
    """Each name, and each value of a choice, is in the script."""
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for parameter in options.parameters():
        for name in parameter.opts + parameter.secondary_opts:
            spelled = f"--long {name[2:]}" if shell == "fish" and name.startswith("--") else name
            assert parameter.param_type_name == "argument" or re.search(rf"{spelled}[ '=)|[]", script), name
        for value in getattr(parameter.type, "choices", ()):
            assert re.search(rf"[ '(]{value}[ ')]", script), value


def test_an_unknown_shell(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'fish', 'zsh'" in capsys.readouterr().err


@pytest.mark.slow
def test_nothing_is_imported(folder):
    """A shell's question for applications is answered without cyasgi, click and what is asked for."""
    code = "import sys; from _cyasgi_command import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, "main:"],
        cwd=folder,
        env={**os.environ, "_CYASGI_APPLICATIONS": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "main:app\nmain:create\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "_cyasgi_command" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("cyasgi", "click", "asyncio", "main")}


def test_the_bundled_applications():
    path = ROOT / "src/cyasgi/cli/README.md"
    if not path.exists():
        pytest.skip("not a checkout")
    told = [rows for head, rows in tables(path) if head[0] == "Application"]
    assert sorted(row[0].strip("`") for row in told[0]) == list(BUNDLED)


def test_modules_that_are_none(tmp_path):
    """What cannot be read or is no Python has no attributes; neither is there anything to wait for."""
    (tmp_path / "broken.py").write_text("app = (\n", encoding="utf-8")
    (tmp_path / "nulls.py").write_bytes(b"app = f()\0")
    (tmp_path / "coded.py").write_bytes(b"# coding: nonsense\napp = f()\n")
    (tmp_path / "deep.py").write_text(f"app = {'(' * 100_000}\n", encoding="utf-8")
    (tmp_path / "large.py").write_text(f"app = f()\n#{'x' * MOST_BYTES}\n", encoding="utf-8")
    (tmp_path / "directory.py").mkdir()
    (tmp_path / "not a name.py").write_text("app = f()\n", encoding="utf-8")
    (tmp_path / "warns.py").write_text('app = f("\\d")\n', encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert complete(str(tmp_path), "") == ["warns:app"]
    for name in ("broken", "nulls", "coded", "deep", "large", "directory", "missing"):
        assert complete(str(tmp_path), f"{name}:") == []
    assert complete(str(tmp_path / "nowhere"), "x") == []
    assert complete(str(tmp_path / "nowhere"), "") == list(BUNDLED)


def test_many_modules(tmp_path):
    """Of more than a few modules their names are offered first."""
    for number in range(11):
        (tmp_path / f"m{number}.py").write_text("app: object = f()\nfrom x import application\n", encoding="utf-8")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("async def app(*_): pass\n_hidden = f()\n", encoding="utf-8")
    (tmp_path / "package" / "inner.py").write_text("class App: pass\n", encoding="utf-8")
    assert complete(str(tmp_path), "m") == sorted(f"m{number}:" for number in range(11))
    assert complete(str(tmp_path), "m10") == ["m10:app", "m10:application"]
    assert complete(str(tmp_path), "p") == ["package.", "package:app"]
    assert complete(str(tmp_path), "package.") == ["package.inner:App"]
