"""The window's mean attention on a GPU: two passes over the keys, no attention written out."""
