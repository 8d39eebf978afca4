"""Running a server: its loop, its listeners, and its end."""
