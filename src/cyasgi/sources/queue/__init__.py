"""At-least-once work: messages of a queue, spread over workers by scope_id and in order within each."""

from .engine import EngineError as EngineError
from .memory import MemoryEngine as MemoryEngine
from .server import QueueServer as QueueServer
