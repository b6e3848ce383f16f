"""Benchmarks of cost and savings: prefill, time per token, memory, and the attention of a decode step alone."""
