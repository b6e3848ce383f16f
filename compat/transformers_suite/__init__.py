"""Runs transformers' own generation and cache tests with a `LavaCache` in place of `DynamicCache`.

`make test-transformers` starts it; `python -m transformers_suite --help` lists its options.
"""
