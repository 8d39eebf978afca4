"""Worker processes: several processes that serve the same addresses, and the one that supervises them."""

from .link import WorkerLink as WorkerLink
from .pool import WorkerPool as WorkerPool
from .settings import (
    Recycling as Recycling,
    Supervision as Supervision,
)
from .sockets import SharedSockets as SharedSockets
