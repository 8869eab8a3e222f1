"""The nodes of the standard pack, one module for each group."""
