"""The promise that every job ends, and says so, whatever its nodes do."""
