"""Shared by the tests of multigen: one thread, a folder of models where scripts find them."""

from __future__ import annotations

import os

# Before torch computes for the first time: with more threads than free cores every step waits for the slowest.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
