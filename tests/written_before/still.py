"""A pack of one file. Its text is part of its nodes' keys, so that not a letter of this file may change."""

from graphengine import node


@node
def plus(a: int, b: int = 1) -> int:
    """A sum."""
    return a + b


@node(version=2)
def times(a: int, b: int = 1) -> int:
    """A product."""
    return a * b
