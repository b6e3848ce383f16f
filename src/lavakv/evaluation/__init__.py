"""Running models with and without compression and measuring what it costs. No terminal here."""
