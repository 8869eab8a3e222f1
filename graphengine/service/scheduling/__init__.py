"""Which call a worker computes next, how many at once, and how long calls take."""
