"""The release check: everything is run once, and each feature is shown with the tests that show it."""
