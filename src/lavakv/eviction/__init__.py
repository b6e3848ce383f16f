"""The driver: evicts while the prefill runs, layer after layer, within bounds on memory and copying."""
