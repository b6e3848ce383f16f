"""Reports: a run of `lavakv eval` and the surviving tokens of a prompt as pages, and all drawings. Needs no model."""
