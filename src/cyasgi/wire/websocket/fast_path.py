"""The usual course of frames and messages: the compiled twin where the core is compiled, else the pure one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.backend import backend

if TYPE_CHECKING or backend == "python":
    from ._fast_frames_py import FastFrames as FastFrames
    from ._fast_websocket_py import FastWebSocket as FastWebSocket
else:
    from ._fast_path import FastFrames as FastFrames, FastWebSocket as FastWebSocket
