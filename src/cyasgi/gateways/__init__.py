"""Gateways bring bytes from the network to applications and back: UDP, HTTP, WebSockets, and what they share in `net`.

Nothing but the command imports them, and only when it needs them.
"""
