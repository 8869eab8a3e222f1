"""The promise that the stock editor works with our nodes, as a person uses it."""
