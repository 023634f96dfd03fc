"""`make bench`: what a message costs, how long it takes, and whether that changes with size or with a commit.

It drives a private copy of the whole system from outside, through the documented API, and looks inside only to read the
processor time and memory of the processes. How to run it and what the measures mean: docs/benchmarks.md.
"""
