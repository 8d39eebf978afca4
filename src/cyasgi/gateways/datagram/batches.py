"""What happens for each datagram: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...core.backend import backend
from ._batches_py import (
    BATCH as BATCH,
    Asked as Asked,
    asked_of as asked_of,
    source_of as source_of,
)

if TYPE_CHECKING or backend == "python":
    from ._batches_py import (
        BatchTransport as BatchTransport,
        Buffers as Buffers,
        DatagramScope as DatagramScope,
        EndpointBase as EndpointBase,
        application_send as application_send,
    )
else:
    from ._batches import (
        BatchTransport as BatchTransport,
        Buffers as Buffers,
        DatagramScope as DatagramScope,
        EndpointBase as EndpointBase,
        application_send as application_send,
    )

#: Whether sockets are read and written in batches; elsewhere by a transport of the loop.
IN_BATCHES = sys.platform == "linux"
