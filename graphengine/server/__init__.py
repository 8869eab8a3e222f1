"""The service over HTTP: one `JobApi` for all, and a thin module for each contract that renders it."""
