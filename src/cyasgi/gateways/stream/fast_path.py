"""The twin that was chosen of what is compiled of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._fast_path_py import (
        application_send as application_send,
        come as come,
        data_received as data_received,
        give as give,
        next_message as next_message,
        send as send,
    )
else:
    from ._fast_path import (
        application_send as application_send,
        come as come,
        data_received as data_received,
        give as give,
        next_message as next_message,
        send as send,
    )
