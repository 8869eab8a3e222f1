"""Nodes with ComfyUI's names, inputs and meaning, by what they are for.

Inputs are in ComfyUI's order, so all are given by name; an input that may be left out there has the default None.
"""
