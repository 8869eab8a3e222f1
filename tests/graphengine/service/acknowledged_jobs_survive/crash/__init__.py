"""The promise that it survives a crash at each single change of a file, and a power cut after it."""
