"""Steps that make and measure the embedded model `tiny`; run each as `python -m training.STEP` from the checkout."""
