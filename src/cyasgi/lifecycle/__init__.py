"""Servers whose instances are counted, limited and told of their life."""

from .managed import Counting, InstanceStatistics, LimitExceeded, ManagedServer, Record

__all__ = ["Counting", "InstanceStatistics", "LimitExceeded", "ManagedServer", "Record"]
