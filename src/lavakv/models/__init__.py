"""Models by name: the default one from the package registry, GGUF files converted once, everything else as it is."""
