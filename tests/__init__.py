"""Tests, in folders as the tree of the packages, or named for the promise that they hold."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the project."""
