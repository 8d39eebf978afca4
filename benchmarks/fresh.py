"""Runs a function in an interpreter of its own: nothing measured before it can be in its way."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def command(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """The command that calls a module-level function of this package with JSON arguments and prints what it returns."""
    target = f"{function.__module__}:{function.__name__}"
    return [sys.executable, "-m", "benchmarks.fresh", target, json.dumps(arguments)]


def fresh(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls a module-level function of this package in a new interpreter; its stderr is this one's."""
    done = subprocess.run(command(function, arguments), check=False, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    if done.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__name__}({arguments}) ended with {done.returncode}")
    return json.loads(done.stdout)


def main() -> None:
    answer = os.fdopen(os.dup(1), "w")
    # Whatever else prints must not get into the answer.
    os.dup2(2, 1)
    module, _, function = sys.argv[1].partition(":")
    returned = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[2]))
    json.dump(returned, answer)
    answer.close()


if __name__ == "__main__":
    main()
