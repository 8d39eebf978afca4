"""Servers that fetch their messages from an engine on the network, rather than listen for them."""
