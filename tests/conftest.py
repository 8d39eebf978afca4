"""The fixtures that choose implementation and event loop.

A behaviour test takes ``impl`` (reference, pure and cython) or ``cy`` (pure and cython, where cyasgi differs from the
reference on purpose) together with ``run`` (asyncio and uvloop). It never asks which one it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from support.loops import LOOPS, PATIENCE, loop_factory
from support.rabbitmq_process import SCRIPT, Address, Broker
from support.twins import BACKENDS, activate

if TYPE_CHECKING:
    from support.rabbitmq_shared import Run

_RUN: pytest.StashKey[Run] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-extension",
        action="store_true",
        help="the Cython extension is not there on purpose: test the pure twin alone",
    )
    parser.addoption(
        "--cluster",
        action="store_true",
        help="also run what has many processes at work for a minute or more, which is left out otherwise",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: needs real time, a process of its own, or much work: 50 ms and more")
    config.addinivalue_line("markers", "long: 5 s and more: begins first where there are several workers")
    config.addinivalue_line("markers", "cluster: many processes for a minute or more: left out without --cluster")
    config.addinivalue_line(
        "markers", "few_combinations(count): on each twin and each loop once, or on so many of these two pairs"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for each core with `-n auto`, since many tests wait: for a process, a deadline, a tick.

    One for each core without the slow ones, which do not wait: every worker takes seconds to collect all tests.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable if config.option.markexpr == "not slow" else 2 * usable


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell each worker where it finds the broker of the run, or starts it."""
    if SCRIPT.exists():
        from support.rabbitmq_shared import Run

        if _RUN not in node.config.stash:
            node.config.stash[_RUN] = Run()
        node.workerinput["run"] = str(node.config.stash[_RUN].directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (run := config.stash.get(_RUN, None)) is not None:
        run.end()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect the tests without the garbage collector: almost all that is made stays, and is looked at in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        if hasattr(session.config, "workerinput"):
            # What is above the directory of a worker belongs to all of them.
            _keep_bytecode(Path(session.config.option.basetemp).parent)
            _import_own_share(session, session.config.workerinput)
        return (yield)
    finally:
        if enabled:
            gc.enable()


def _import_own_share(session: pytest.Session, worker: dict[str, Any]) -> None:
    """Import some of the modules first, others in each worker, so that not every worker has to rewrite all `assert`s.

    They find the bytecode of the others' modules. The collection, which follows, tells what is wrong with a module.
    """
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    roots = [session.config.invocation_params.dir / one.partition("::")[0] for one in session.config.args]
    paths = sorted(path for root in roots for path in root.rglob("test_*.py"))
    for path in paths[number::count]:
        with contextlib.suppress(pytest.Collector.CollectError, pytest.skip.Exception):
            _ = pytest.Module.from_parent(session, path=path).obj


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long ones, so that a run ends with short ones, and no worker is waited for by the others.

    With them are those that need a message broker, which takes long to start: so one worker has most of them, and the
    others seldom wait for it. Clusters are left out, unless they are asked for.
    """
    if not config.getoption("--cluster"):
        clusters = [item for item in items if item.get_closest_marker("cluster")]
        if clusters:
            items[:] = [item for item in items if item not in clusters]
            config.hook.pytest_deselected(items=clusters)

    brokers = {"broker", "own_broker"}

    def is_late(item: pytest.Item) -> bool:
        return item.get_closest_marker("long") is None and brokers.isdisjoint(getattr(item, "fixturenames", ()))

    if hasattr(config, "workerinput"):
        items.sort(key=is_late)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    backends = ["python"] if metafunc.config.getoption("--no-extension") else list(BACKENDS)
    few = metafunc.definition.get_closest_marker("few_combinations")
    if few and {"cy", "run"} <= set(metafunc.fixturenames):
        # The fastest last: one alone is for what takes very long.
        pairs = list(dict.fromkeys([(backends[0], LOOPS[0]), (backends[-1], LOOPS[-1])]))
        metafunc.parametrize(("cy", "run"), pairs[-few.args[0] :] if few.args else pairs, indirect=True)
        return
    if "impl" in metafunc.fixturenames:
        metafunc.parametrize("impl", ["reference", *backends], indirect=True)
    elif "cy" in metafunc.fixturenames:
        metafunc.parametrize("cy", backends, indirect=True)
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", LOOPS, indirect=True)


def _keep_bytecode(folder: Path) -> None:
    """Have Python, and the processes that it starts, keep bytecode there if it is not to be written beside the modules.

    Hundreds of processes that tests start then compile the package once. To compile it takes longer than all else that
    they do until they serve.
    """
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session", autouse=True)
def _bytecode_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a run without workers; they begin with it before they collect."""
    _keep_bytecode(tmp_path_factory.getbasetemp())


def _collect_all() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _rooms() -> Iterator[list[Path]]:
    """The directories of tests that were entered, one after the other."""
    yield []
    _collect_all()


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_new_is_collected(request: pytest.FixtureRequest, _rooms: list[Path]) -> None:
    """`run` collects after each test; to look at every module and every test each time was most of the suite's time.

    What a test has left that outlived its collection is found before the tests of the next directory, or at the end.
    """
    if _rooms[-1:] != [request.path.parent]:
        _rooms.append(request.path.parent)
        _collect_all()
    gc.collect()
    gc.freeze()


@pytest.fixture
def reference() -> type:
    """asgiref's own class, to show what it does."""
    from asgiref.server import StatelessServer

    return StatelessServer


@pytest.fixture
def impl(request: pytest.FixtureRequest, reference: type) -> Any:
    """A namespace with StatelessServer: the reference's, or cyasgi's on either back end."""
    if request.param == "reference":
        return SimpleNamespace(StatelessServer=reference)
    return activate(request.param, request)


@pytest.fixture
def cy(request: pytest.FixtureRequest) -> Any:
    """The package cyasgi, on either back end."""
    return activate(request.param, request)


@pytest.fixture
def watchful(cy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the end of a run can come, the checker looks for anything else every 10 ms, not every second."""
    monkeypatch.setattr(importlib.import_module(f"{cy.__name__}.instances.checker"), "UNEVENTFUL", 0.01)


@pytest.fixture
def twins(request: pytest.FixtureRequest) -> list[Any]:
    """The package cyasgi on both back ends, to compare them."""
    if request.config.getoption("--no-extension"):
        pytest.skip("there is but one twin")
    return [activate(backend, request) for backend in BACKENDS]


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """run(main()) on a fresh loop of each kind; whatever reaches the loop's exception handler fails the test.

    `run.loop_factory` makes another such loop. `run.complaints` is the list of contexts the handler was given; a test
    that expects some takes them out of it.
    """
    factory = loop_factory(request.param)
    complaints: list[dict[str, Any]] = []

    def run(coroutine: Coroutine[Any, Any, Any], *, debug: bool = False) -> Any:
        async def bounded() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            return await asyncio.wait_for(coroutine, PATIENCE)

        # What a test drops with work in hand is ended when the loop is, and not at the collector's moment before.
        enabled = gc.isenabled()
        gc.disable()
        try:
            with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
                return runner.run(bounded())
        finally:
            if enabled:
                gc.enable()

    run.loop_factory = factory  # type: ignore[attr-defined]
    run.complaints = complaints  # type: ignore[attr-defined]
    yield run
    gc.collect(1)
    # What is left belongs to pytest: the next collection need not look at it again.
    gc.freeze()
    assert not complaints, complaints


def _rabbitmq() -> None:
    if not SCRIPT.exists():
        pytest.skip("RabbitMQ is not installed: apt-get install rabbitmq-server")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Where RabbitMQ is, one for all tests of a run: what a test makes there has a name that no other test uses."""
    _rabbitmq()
    if worker := getattr(request.config, "workerinput", None):
        from support.rabbitmq_shared import shared_broker

        yield shared_broker(Path(worker["run"]), tmp_path_factory.mktemp("rabbitmq"))
        return
    with contextlib.closing(Broker(tmp_path_factory.mktemp("rabbitmq"))) as one:
        one.start()
        yield one


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """RabbitMQ for the tests of a module alone, which may stop it, freeze it and start it again."""
    _rabbitmq()
    with contextlib.closing(Broker(tmp_path_factory.mktemp("rabbitmq"))) as one:
        one.start()
        yield one


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """What cyasgi logs as a warning or worse fails the test, unless the test puts it into the list that this is."""
    expected: list[logging.LogRecord] = []
    yield expected
    found = [one for one in caplog.get_records("call") if one.name.startswith("cyasgi") and one.levelno > logging.INFO]
    assert [one for one in found if one not in expected] == []
