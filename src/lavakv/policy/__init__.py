"""Policies: their scores and rules, the built-in ones, names and plugins, and what they say of a layer."""
