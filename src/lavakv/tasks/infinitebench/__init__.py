"""InfiniteBench."""
