"""Figures: Altair charts of frames, for the report, for notebooks and for papers.

A figure is one file. What it shows comes from `tables` and from records, and of feature maps from kept networks.
"""
