"""What all rooms share: failures of users' code, lost time of event loops, and control across threads."""
