"""SQL as data: taken out of answers, run in a sandbox, compared by results, brought to one form."""
