"""Where a value comes from: the calls before it, and what a picture says of them."""
