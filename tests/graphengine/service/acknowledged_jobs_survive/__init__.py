"""The promise that an acknowledged job survives kills, power cuts, full disks and damaged files."""
