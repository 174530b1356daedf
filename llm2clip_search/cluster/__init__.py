"""Embedding on a Ray cluster: of indices, of training captions and of benchmarks. Nothing here knows an index."""
