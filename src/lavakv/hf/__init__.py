"""The transformers integration: the only folder that knows transformers."""

from lavakv.hf.cache import LavaCache
from lavakv.hf.custom_generate import compressed
from lavakv.hf.enable import disable, enable, enabled
from lavakv.hf.graph.call import graphed

__all__ = ["LavaCache", "compressed", "disable", "enable", "enabled", "graphed"]
