"""The page: one self-contained HTML file per task, rendered from finished runs."""
