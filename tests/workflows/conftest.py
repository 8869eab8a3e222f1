"""One thread for torch: with more threads than free cores every step waits for the slowest."""

import os

# Before torch computes for the first time.
os.environ["OMP_NUM_THREADS"] = "1"
