"""The other file of that folder, which does."""

from graphengine import node


@node(version=1)
def whole() -> int:
    """One."""
    return 1
