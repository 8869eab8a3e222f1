"""Nodes: how a function becomes one, its sockets and help, and the registry in which nodes are found by name."""
