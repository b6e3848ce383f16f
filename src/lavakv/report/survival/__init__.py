"""What of one prompt survives in which heads, under several policies and budgets."""
