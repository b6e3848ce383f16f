"""The page of `lavakv inspect`: which tokens of a prompt survive in which heads, by policy and budget."""
