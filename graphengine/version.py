"""The version of graphengine."""

__version__ = "0.1.0"
