"""The promise that nothing is computed, validated or bound twice, whatever is remembered or runs at the same time."""
