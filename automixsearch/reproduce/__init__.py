"""The published tables of AutoMix and Decoupled Mixup, and how to measure their figures again.

`registry` says what was published, `settings` how each figure is trained, `parameters` counts. Listing needs nothing
heavy.
"""
