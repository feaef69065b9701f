"""The report of a search: one HTML page, or its tables as Markdown, CSV and JSON."""
