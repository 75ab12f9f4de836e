"""The web app in which people rank."""
