"""The console: pages for people, rendered here, on the work queue that the API is on."""
