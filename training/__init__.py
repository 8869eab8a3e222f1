"""How the embedded model `tiny` is made and measured; run each step as `python -m training.STEP` from the checkout."""
