"""Benchmark data sets, each read in the layout that its authors distribute."""
