"""What the gateways share: sockets, deadlines, TLS, accepting."""
