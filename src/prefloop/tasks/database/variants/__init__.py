"""The second database of a task, on which an answer has to be right as well: what changes, and who writes it."""
