"""Names that lavakv registers with transformers."""

PREFIX = "lavakv_"
