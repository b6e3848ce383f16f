"""From scores to kept positions: ranking, shares of heads and layers, and merging over ranks."""
