"""Diagnosis of this machine for bug reports. It also runs where PyTorch or transformers are broken."""
