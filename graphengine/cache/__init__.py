"""The content-addressed cache: values by key in memory and on disk, and keys that are being computed."""

from graphengine.cache.disk import DiskStore
from graphengine.cache.flight import Flight
from graphengine.cache.memory import Entry, Memory
from graphengine.cache.store import Store

__all__ = ["DiskStore", "Entry", "Flight", "Memory", "Store"]
