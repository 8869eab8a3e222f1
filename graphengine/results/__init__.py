"""What runs leave: files of outputs, a history, and the record that a picture carries."""
