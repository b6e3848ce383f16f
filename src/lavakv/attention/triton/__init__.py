"""Decoding on a GPU: one Triton kernel over tiles of survivors and tail, one that merges what they found."""
