"""The choice of the back end, and what importing the package and its modules costs and needs."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

from support.serving import environment, output, python

SOURCE = pathlib.Path(importlib.util.find_spec("cyasgi").origin).parent
#: How the names of extension modules end, here and elsewhere.
BINARY = (".so", ".pyd", ".dll", ".dylib")
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
)


@pytest.fixture
def extension(request):
    """Skips the test where there is no extension on purpose."""
    if request.config.getoption("--no-extension"):
        pytest.skip("the extension is not there on purpose")


@pytest.fixture
def copied(tmp_path):
    """A copy of the package without its extension, and a way to run code on it: copied(code, …) -> process."""

    def ignore(directory, names):
        return [name for name in names if name.endswith(BINARY) or name == "__pycache__"]

    package = tmp_path / "copy" / "cyasgi"
    shutil.copytree(SOURCE, package, ignore=ignore)

    def copied(code, backend=None):
        path = tmp_path / "script.py"
        path.write_text("import sys\nsys.path.insert(0, sys.argv[1])\n" + textwrap.dedent(code), encoding="utf-8")
        return subprocess.run(
            [sys.executable, "-W", "error", str(path), str(package.parent)],
            cwd=tmp_path,
            env=environment(CYASGI_BACKEND=backend),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    copied.package = package
    return copied


#: Says which back end is at work, having used it once.
WHICH = """
import asyncio, sys
import cyasgi

class Server(cyasgi.StatelessServer):
    async def handle(self):
        self.get_or_create_application_instance("a", {}).put_nowait(1)

    async def application_send(self, scope, message):
        print("sent", message)

async def application(scope, receive, send):
    await send(await receive())

assert cyasgi.__file__.startswith(sys.argv[1]) if len(sys.argv) > 1 else True
asyncio.run(Server(application).arun())
print(cyasgi.backend)
"""


# ------------------------------------------------------------------------------------------ the variable


@pytest.mark.slow
def test_backend_is_what_the_variable_says(cy, tmp_path):
    """CYASGI_BACKEND=python and =cython give that back end, and `cyasgi.backend` names it."""
    assert cy.backend in ("python", "cython")
    process = python(WHICH, cwd=tmp_path, backend=cy.backend)
    assert output(process) == ["sent 1", cy.backend]


@pytest.mark.slow
def test_instances_are_of_the_back_end(tmp_path, extension):
    """The two back ends are two, and only the chosen one is loaded."""
    code = """
        import sys
        import cyasgi
        print(cyasgi.ApplicationInstance.__name__, cyasgi.ApplicationInstance.__module__)
        print(*{name.split(".")[2] for name in sys.modules if name.startswith(("cyasgi.core._c", "cyasgi.core._py"))})
    """
    answers = [output(python(code, cwd=tmp_path, backend=backend)) for backend in ("python", "cython")]
    assert answers[0][1] != answers[1][1]
    assert all(len(loaded.split()) == 1 for _, loaded in answers)


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_extension_is_the_default(tmp_path, extension, value):
    """Without the variable, or with an empty one, the extension serves where it was built."""
    assert output(python(WHICH, cwd=tmp_path, backend=value)) == ["sent 1", "cython"]


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nonsense", "Cython", "PYTHON", "python ", "c", "1", "python,cython", "none"])
def test_nonsense_is_refused_by_name(tmp_path, value):
    """Any other value is an error that shows it and says what is accepted."""
    process = python("import cyasgi", cwd=tmp_path, backend=value)
    assert process.returncode != 0
    message = process.stderr.strip().splitlines()[-1]
    assert message.startswith(("ImportError:", "ValueError:"))
    for word in ("CYASGI_BACKEND", repr(value), "python", "cython"):
        assert word in message


@pytest.mark.slow
def test_nonsense_is_refused_in_each_way_in(tmp_path):
    """Whatever module of the package is imported first, a nonsensical value is not overlooked."""
    process = python("import cyasgi.server", cwd=tmp_path, backend="nonsense")
    assert process.returncode != 0
    assert "'nonsense'" in process.stderr


# ------------------------------------------------------------------------------------- extensions absent and broken


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "", "python"])
def test_missing_extension_falls_back(copied, backend):
    """Where no extension was built the twin serves, without a word."""
    assert output(copied(WHICH, backend)) == ["sent 1", "python"]


@pytest.mark.slow
def test_missing_extension_that_was_asked_for(copied):
    """CYASGI_BACKEND=cython without an extension is an ImportError that says what is missing."""
    process = copied("import cyasgi", "cython")
    assert process.returncode != 0
    message = process.stderr.strip().splitlines()[-1]
    assert message.startswith(("ImportError:", "ModuleNotFoundError:"))
    assert "cython" in message
    assert "_core" in message


def suffix():
    return importlib.machinery.EXTENSION_SUFFIXES[0]


#: Ways in which an extension can be there and be of no use: the name of a file, and what is in it.
BROKEN = {
    "not a library": (lambda: "_core" + suffix(), b"this is not a shared library"),
    "empty": (lambda: "_core" + suffix(), b""),
    "lacks a library": (lambda: "_core.py", b"raise ImportError('libmissing.so.1: cannot open shared object file')"),
    "lacks a module": (lambda: "_core.py", b"import a_module_that_is_not_there"),
    "raises": (lambda: "_core.py", b"raise RuntimeError('compiled for another version')"),
    "lacks names": (lambda: "_core.py", b""),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "cython"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_extension_is_an_error(copied, how, backend):
    """An extension that is there and cannot be loaded is an error, asked for or not: never a silent fallback."""
    name, content = BROKEN[how]
    (copied.package / "core" / name()).write_bytes(content)
    process = copied("import cyasgi\nprint(cyasgi.backend)", backend)
    assert process.returncode != 0
    assert process.stdout == ""
    assert "_core" in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_extension_does_not_matter_to_the_twin(copied, how):
    """CYASGI_BACKEND=python serves beside an extension that is broken."""
    name, content = BROKEN[how]
    (copied.package / "core" / name()).write_bytes(content)
    assert output(copied(WHICH, "python")) == ["sent 1", "python"]


@pytest.mark.slow
def test_extension_for_another_python_is_absent(copied):
    """A binary whose name says that it is for another Python is none for this one: the twin serves."""
    (copied.package / "_core.cpython-35m-x86_64-linux-gnu.so").write_bytes(b"from long ago")
    assert output(copied(WHICH)) == ["sent 1", "python"]


# ------------------------------------------------------------------------------------------ imports


#: Imports each module that it is told in a process of its own, and answers with its name if that went well.
#: What they need of other packages is imported once, before the processes part; bytecode is kept for those that follow.
IMPORTS = """
import importlib, os, sys, traceback
sys.dont_write_bytecode, sys.pycache_prefix = False, os.getcwd()
import argparse, asyncio, concurrent.futures, email.utils, http, importlib.metadata, logging.config, ssl, urllib.parse
import asgiref.server

for line in sys.stdin:
    process = os.fork()
    if not process:
        try:
            importlib.import_module(line.strip())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(f"exited with {status}" if status else line.strip(), flush=True)
"""


@pytest.fixture(scope="module")
def imported_alone(tmp_path_factory):
    """imported_alone(module) -> the module's name if a process could import it; its standard error says why not."""
    directory = tmp_path_factory.mktemp("imports")
    if not hasattr(os, "fork"):
        yield lambda module: output(python(f"import {module}; print({module!r})", cwd=directory))
        return
    command = [sys.executable, "-W", "error", "-c", IMPORTS]
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:

        def imported_alone(module):
            process.stdin.write(f"{module}\n")
            process.stdin.flush()
            return process.stdout.readline().splitlines()

        yield imported_alone
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_each_module_can_be_imported_alone(imported_alone, module):
    """Each module can be the first to be imported, in an interpreter in which every warning is an error."""
    assert imported_alone(module) == [module]


@pytest.mark.slow
def test_package_needs_nothing_else(tmp_path, cy):
    """`import cyasgi` imports nothing beyond the standard library and asgiref: no uvloop, no Django, no Channels."""
    code = """
        import sys
        before = set(sys.modules)
        import cyasgi
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        # What Cython's compiled modules share with each other is no import of anything.
        new = {name for name in new if not name.startswith(("_cython_", "cython_runtime"))}
        # Python 3.15 has made a module of its own when it was built, and does not name it.
        print(*sorted(new - set(sys.stdlib_module_names) - {"_missing_stdlib_info"}))
    """
    assert output(python(code, cwd=tmp_path, backend=cy.backend)) == ["asgiref cyasgi"]


@pytest.mark.slow
def test_package_imports_no_gateway(tmp_path, cy):
    """`import cyasgi` and `import cyasgi.server` load no gateway, no wire format and no command line."""
    code = """
        import sys
        import cyasgi, cyasgi.server
        others = ("cyasgi.gateways", "cyasgi.wire", "cyasgi.cli")
        print(*sorted(name for name in sys.modules if name.startswith(others)))
    """
    assert output(python(code, cwd=tmp_path, backend=cy.backend)) == [""]


@pytest.mark.slow
def test_importing_has_no_effects(tmp_path, cy):
    """Importing the package starts no thread and touches no signal, logger or warning filter."""
    code = """
        import logging, signal, threading, warnings
        import asgiref.server
        before = (
            threading.active_count(),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            list(logging.getLogger().handlers),
            list(warnings.filters),
        )
        import cyasgi
        logger = logging.getLogger("cyasgi.server")
        assert before == (
            threading.active_count(),
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            list(logging.getLogger().handlers),
            list(warnings.filters),
        )
        assert logger.level == logging.NOTSET and logger.propagate and not logger.handlers
        print("done")
    """
    assert output(python(code, cwd=tmp_path, backend=cy.backend)) == ["done"]


def test_public_names(cy):
    """All names that the package promises are there, listed in `__all__`, and none is missing behind it."""
    promised = {
        "ApplicationInstance",
        "InstanceDeleted",
        "StatelessServer",
        "backend",
        "current_instance",
        "install",
        "uninstall",
    }
    assert promised <= set(cy.__all__)
    for name in cy.__all__:
        assert getattr(cy, name) is not None
    assert issubclass(cy.InstanceDeleted, Exception)
