"""lm-evaluation-harness: its prompts, its data, its scorers."""
