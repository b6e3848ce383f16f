"""Reference implementations of the scores, one number at a time in plain Python; tests hold the fast ones to them."""
