"""The report: one HTML file with the leaderboard, figures and a page for each row, which needs no network.

`make.report` makes it. What a page says is gathered by `board` (the table), `row_page`, `panels` (figures) and `origin`
(what was run, and what is missing) as plain values; the templates in `templates/` only lay them out, and its scripts
sort, filter and draw in the reader's browser.
"""
