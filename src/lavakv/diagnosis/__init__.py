"""What lavakv finds on this machine, for bug reports: works, and says so, where PyTorch or transformers are broken."""
