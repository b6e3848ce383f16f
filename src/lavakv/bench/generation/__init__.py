"""What a user of `model.generate` waits for and pays in memory: lavakv's caches beside those of transformers."""
