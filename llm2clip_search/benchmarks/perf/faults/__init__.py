"""Faults that are done to an index on purpose: processes that are killed, disks that fail, files that are damaged.

``python -m llm2clip_search.benchmarks.perf.faults`` prints how many of each were tried and what came of them.
"""
