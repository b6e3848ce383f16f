"""Decoding through a graph: the decode step of a cache is captured once and replayed for further tokens."""
