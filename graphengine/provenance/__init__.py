"""Provenance: the calls that a value comes from, and the record of them that a picture carries."""
