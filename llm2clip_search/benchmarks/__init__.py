"""Benchmarks: data sets, retrieval and classification results, reports, and performance measurements."""
