"""What rooms share that is about no room: failures of users' code, and time that the event loop has lost."""
