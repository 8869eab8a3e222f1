"""The promise that under load and through restarts no acknowledged job is lost, no end missed, and memory bounded."""
