"""Transports: what brings bytes from the network to applications and back. Only the command imports them."""
