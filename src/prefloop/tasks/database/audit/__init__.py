"""Which questions of a task folder can be asked, which cannot and why; in files, and in words."""
