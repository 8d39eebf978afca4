"""Servers that count and limit their instances, and tell what becomes of each."""

from ..instances.limits import LimitExceeded
from .managed import ManagedServer
from .statistics import Counting, InstanceStatistics, Record

__all__ = ["Counting", "InstanceStatistics", "LimitExceeded", "ManagedServer", "Record"]
