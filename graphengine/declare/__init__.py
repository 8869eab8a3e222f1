"""What a node is: its function, sockets and documentation, and the registry in which it is looked up by name."""
