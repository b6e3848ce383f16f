"""The demonstration: a made-up logbook with facts hidden in it, asked for with more and less of the cache."""
