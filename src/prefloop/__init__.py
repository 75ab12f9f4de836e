"""prefloop closes the preference loop for language models: generate, judge, prefer, train, evaluate, go round."""
