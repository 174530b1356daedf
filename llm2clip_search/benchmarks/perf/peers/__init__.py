"""This program beside those that users would pick instead: rclip, clip-retrieval, a short script, an older commit.

``python -m llm2clip_search.benchmarks.perf.peers`` installs each in an environment of its own, makes weights and
images, runs all of them in turns and writes every run down.
"""
