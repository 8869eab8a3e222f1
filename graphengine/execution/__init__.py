"""Running a graph: what is computed, in which order, on which threads, and what is handed on."""
