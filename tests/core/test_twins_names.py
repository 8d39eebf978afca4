"""What the twins show has the same names, in the same order, with the same signatures."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

import pytest

from support.serving import quiet, reader
from support.twins import BACKENDS, activate

CLASSES = ("ApplicationInstance", "FastPath", "ForeignEntry", "InstanceTable", "Pass", "Setting")
#: Of methods whose default is an object of its own the compiled twin tells no signature, as those of dict do not.
UNTOLD = {"get", "pop"}


@pytest.fixture
def twins(request: pytest.FixtureRequest) -> tuple[ModuleType, ModuleType]:
    """The modules of both cores, each as it belongs to its own `cyasgi`."""
    if request.config.getoption("--no-extension"):
        pytest.skip("there is one twin only, on purpose")
    activate("python", request)
    pure = importlib.import_module("cyasgi.core._py")
    activate("cython", request)
    return pure, importlib.import_module("cyasgi.core._core")


def names(cls: type) -> list[str]:
    """All public names, in the order in which they are defined, the base classes' first."""
    return list(dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base) if name[0] != "_"))


def methods(cls: type) -> list[str]:
    """Its methods and those of its layers, the lowest first; special ones have an order of their own when compiled."""
    layers = [base for base in reversed(cls.__mro__) if base.__module__.startswith("cyasgi.")]
    return [
        name for base in layers for name, value in vars(base).items() if callable(value) and not name.startswith("__")
    ]


def parameters(function: Any) -> list[tuple[str, bool, Any]]:
    """The name and the kind of each parameter, and whether it may be left out."""
    return [
        (parameter.name, parameter.default is not parameter.empty, parameter.kind)
        for parameter in list(inspect.signature(function).parameters.values())[1:]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_public_names(twins: tuple[ModuleType, ModuleType], name: str) -> None:
    pure, compiled = (getattr(twin, name) for twin in twins)
    shown = set(names(pure))
    if name == "FastPath":
        # What the pure one keeps in its __dict__ is declared in the compiled one.
        shown.update(attribute for attribute in vars(pure(object)) if not attribute.startswith("_"))
    assert shown == set(names(compiled))


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_compiled_twin_shows_of_its_own_the_pure_one_has(
    twins: tuple[ModuleType, ModuleType], name: str
) -> None:
    """Such as `_start`, which the rest of the package calls."""
    pure, compiled = (getattr(twin, name) for twin in twins)
    assert set(methods(compiled)) <= set(dir(pure))


def test_layers_of_compiled_classes_cannot_be_made(twins: tuple[ModuleType, ModuleType]) -> None:
    """Their methods rely on what the whole class sees to."""
    _, compiled = twins
    layers = {*compiled.ApplicationInstance.__mro__, *compiled.InstanceTable.__mro__}
    layers -= {compiled.ApplicationInstance, compiled.InstanceTable, object}
    assert len(layers) >= 4
    for layer in layers:
        for arguments in ((), ("id",), (None, None, "id", {}, 0)):
            with pytest.raises(TypeError, match="cannot create"):
                layer(*arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_order_of_methods(twins: tuple[ModuleType, ModuleType], name: str) -> None:
    pure, compiled = (methods(getattr(twin, name)) for twin in twins)
    assert [method for method in pure if method in compiled] == [method for method in compiled if method in pure]


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(twins: tuple[ModuleType, ModuleType], name: str) -> None:
    pure, compiled = (getattr(twin, name) for twin in twins)
    untold = set()
    for method in methods(compiled):
        try:
            told = parameters(getattr(compiled, method))
        except ValueError:
            untold.add(method)
            continue
        assert (method, told) == (method, parameters(getattr(pure, method)))
    assert untold <= UNTOLD


def test_signatures_of_functions(twins: tuple[ModuleType, ModuleType]) -> None:
    pure, compiled = (parameters(twin.get_or_create_application_instance) for twin in twins)
    assert pure == compiled


def assignable(thing: Any) -> set[str]:
    """The public attributes that take the value that they have."""
    taken = set()
    for name in names(type(thing)):
        if not callable(getattr(type(thing), name, None)):
            try:
                setattr(thing, name, getattr(thing, name))
            except AttributeError:
                continue
            taken.add(name)
    return taken


def test_what_can_be_assigned(twins: tuple[ModuleType, ModuleType], request: pytest.FixtureRequest, run: Any) -> None:
    """What one twin's attributes refuse the other's refuse, too."""

    async def main(cy: Any, twin: ModuleType) -> list[set[str]]:
        server = quiet(cy.StatelessServer)(reader)
        instance = server.get_or_create_application_instance("id", {"type": "test"})
        setting = vars(cy.StatelessServer)["max_applications"]
        things = [
            instance,
            server.application_instances,
            twin.ForeignEntry("id", {}),
            setting,
        ]
        assert [type(thing).__name__ for thing in things] == [
            "ApplicationInstance",
            "InstanceTable",
            "ForeignEntry",
            "Setting",
        ]
        return [assignable(thing) for thing in things]

    pure, compiled = (
        run(main(activate(backend, request), twin)) for backend, twin in zip(BACKENDS, twins, strict=True)
    )
    assert pure == compiled
    assert pure[0] == {"last_used", "scope"}
    assert pure[2:] == [set(), set()]
