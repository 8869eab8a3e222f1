"""Results that runs leave: output files, a history of runs, and the records in pictures."""
