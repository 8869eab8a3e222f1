"""Graphs and values as people see them: drawings, HTML of values, reports of runs."""
