"""The promise that nodes of packs, scripts and notebooks run wherever a graph runs, and enter keys by what they are."""
