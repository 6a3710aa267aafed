"""The report: one HTML file about runs, made from their files alone."""
