"""Values: their types, literals, canonical forms, bytes and checksums."""
