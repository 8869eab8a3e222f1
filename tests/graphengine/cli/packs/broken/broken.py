"""A pack that does not load."""

raise RuntimeError("this pack is broken")
