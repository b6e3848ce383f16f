"""One decode step on a CPU in one call of C, where the machine has a compiler; everything works without it."""
