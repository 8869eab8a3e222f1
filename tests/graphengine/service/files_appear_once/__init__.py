"""The promise that a job's files are whole and appear once, and that nothing else is left behind."""
