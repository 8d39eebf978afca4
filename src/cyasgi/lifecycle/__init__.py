"""Servers whose instances are counted, limited and told of their life."""

from .managed import Counting, InstanceStatistics, ManagedServer, Record

__all__ = ["Counting", "InstanceStatistics", "ManagedServer", "Record"]
