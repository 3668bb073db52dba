"""The illustrated page: its recording, its explanations, and the page in a browser."""
