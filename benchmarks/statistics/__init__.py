"""Statistics of tables: intervals, paired tests, ranks and groups, agreement of measures. Numbers in, numbers out.

Imports numpy and scipy alone, inside functions where a table would wait for them. Knows neither records nor columns.
"""
