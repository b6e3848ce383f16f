"""Running models with and without compression and measuring the difference. Prints nothing."""
