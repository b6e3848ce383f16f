"""The demonstration: questions about facts hidden in an invented logbook, at several kept fractions."""
