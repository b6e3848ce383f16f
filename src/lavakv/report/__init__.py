"""What a run of `lavakv eval` found, as pages for people. Reads records, needs no model."""
