"""Rounds of eviction over a batch: while a prompt is read, within bounds on memory and copying, or later."""
