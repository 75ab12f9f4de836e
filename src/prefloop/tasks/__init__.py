"""What is asked and what is right. The rest of the package knows a task only by its prompts."""
