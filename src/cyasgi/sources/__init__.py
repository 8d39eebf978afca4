"""Sources: servers that fetch their messages from somewhere else, rather than being connected to."""
