"""The report: one HTML file from records, tables and figures, which opens without a network."""
