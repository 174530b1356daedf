"""Benchmarks: datasets, retrieval metrics, and speed."""
