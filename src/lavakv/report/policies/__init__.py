"""A page that compares all policies over several runs: quality, divergence and cost, for each model and mode."""
