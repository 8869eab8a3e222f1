"""Weights in memory: which components are loaded, on which device, and what was changed in them."""
