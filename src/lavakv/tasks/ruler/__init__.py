"""RULER, generated for the model's own tokenizer."""
