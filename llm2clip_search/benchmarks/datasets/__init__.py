"""Benchmark data sets, each read from the layout that its own authors distribute."""
