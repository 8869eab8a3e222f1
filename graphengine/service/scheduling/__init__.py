"""Scheduling: which call a worker computes next, how many at once, how long calls take, fairness between users."""
