"""The machinery that all recipes share."""
