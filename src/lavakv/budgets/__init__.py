"""Budgets: exact integer splits of a sequence's entries over layers, and of a layer's over heads."""
