"""What the gateways share: sockets, accepting, TLS, capacity, deadlines, flow control."""
