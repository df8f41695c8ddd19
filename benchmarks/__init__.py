"""Benchmarks: seeded, with permanent names, speed and quality reported together."""
