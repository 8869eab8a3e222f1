"""What is known before a run: its inputs, what each argument of a node brings, and the keys of nodes."""
