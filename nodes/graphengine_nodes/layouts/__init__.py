"""Layouts of single files: what a file holds, told by its header, and where each tensor of a component lies in it."""
