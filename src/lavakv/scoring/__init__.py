"""Scores: how much the attention output would lose if an entry went. Tensors in, tensors out."""
