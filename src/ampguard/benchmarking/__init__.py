"""Benchmarking: is a lower precision faster on this machine, and as accurate, for this model?"""
