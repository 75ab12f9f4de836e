"""Recipes and their validation; imports no torch and no loss code."""
