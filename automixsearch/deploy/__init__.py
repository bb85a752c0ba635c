"""What a study found, outside of it: policies in other trainers, and trained networks."""

from automixsearch.deploy.policy import MixingPolicy, load_policy

__all__ = ["MixingPolicy", "load_policy"]
