"""Metrics, health and a live page, of servers in a program of one's own or in worker processes."""

from .local import Metrics as Metrics
