"""Values that nodes take and give: their types, literals, canonical forms, bytes and checksums."""
