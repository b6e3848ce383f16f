"""What compression costs and saves, measured: prefill, time per token, memory, and the attention of a step alone."""
