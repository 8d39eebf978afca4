"""The engines by the URLs of their brokers."""

from __future__ import annotations

from typing import Any

from .amqp import AMQPEngine
from .engine import Engine
from .memory import MemoryEngine


def engine_of(engine: Any) -> Engine:
    """Return the engine that a URL stands for, or the engine itself.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if isinstance(engine, str):
        scheme, colon, _ = engine.partition(":")
        if engine == "memory:":
            return MemoryEngine()
        if colon and scheme in ("amqp", "amqps"):
            return AMQPEngine(engine)
        raise ValueError(
            f"engine={engine!r}: accepted are memory: and a URL as in amqp://user:password@127.0.0.1:5672/vhost"
        )
    if not hasattr(engine, "connect"):
        raise TypeError(f"engine={engine!r}: accepted is a URL, or an engine such as MemoryEngine()")
    return engine  # type: ignore[no-any-return]
