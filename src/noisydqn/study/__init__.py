"""Comparisons: a grid of environments, variants and seeds, and the jobs that train it."""
