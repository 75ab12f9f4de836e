"""Whole recipes: the run from prompts to report, and the build of the embedded policy."""
