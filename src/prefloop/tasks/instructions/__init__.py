"""Instructions that people wrote: LIMA, UltraFeedback, Snorkel's iterations, or any file or Hub data set of prompts."""
