"""Sans-I/O: what a reverse proxy says of the client behind it, and who may say it."""
