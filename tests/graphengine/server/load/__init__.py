"""Under load and through restarts no acknowledged job is lost, no final event is missed, and memory is bounded."""
