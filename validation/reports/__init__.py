"""A report as data first, rendered to HTML and PDF from that data alone."""
